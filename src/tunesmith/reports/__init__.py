"""What a run says of itself: typed result, figures, page, model card and closing text. Import the modules, each is lazy."""
