"""LoRA on any transformers model in a training loop of your own: two lines of tunesmith, the rest is plain PyTorch.

python examples/plain_loop.py MODEL_FOLDER
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tunesmith as ts

TEXTS = ["The kettle sings at seven.", "A letter came from the coast.", "Snow fell on the empty harbour."]
NUM_STEPS = 20


def main(model_name: str) -> tuple[float, float]:
    """Learn three sentences; gives the loss before and after."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_name)

    ts.LoRA(rank=8).attach(model)  # freezes the model, and adds to every linear layer what learns

    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    print(f"{sum(p.numel() for p in learning):,} of {sum(p.numel() for p in model.parameters()):,} parameters learn")
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    losses = []
    for step in range(NUM_STEPS):
        batch = tokenizer(TEXTS[step % len(TEXTS)], return_tensors="pt")
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(f"step {step + 1}: loss {losses[-1]:.3f}")

    ts.LoRA(rank=8).merge(model)  # from here on it is an ordinary model again
    return sum(losses[:3]) / 3, sum(losses[-3:]) / 3


if __name__ == "__main__":
    main(sys.argv[1])
