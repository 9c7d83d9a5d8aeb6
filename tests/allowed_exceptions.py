"""Exceptions from the limits, each with its reason. This list only shrinks: an entry that is not needed fails a test."""

LONG_FILES: dict[str, str] = {}
"""Files above `MAX_FILE_LINES`: path below the package -> reason."""

LONG_PLUGINS: dict[str, str] = {}
"""Plug-ins above `MAX_PLUGIN_LINES`: path below the package -> reason."""

LONG_FUNCTIONS: dict[str, str] = {}
"""Functions above `MAX_FUNCTION_LINES`: `file:name` -> reason."""

MANY_PARAMETERS: dict[str, str] = {
    "api.py:fit": "the settings that people use, each a typed keyword",
    "api.py:fit_many": "the settings that people use, each a typed keyword",
    "model/packed.py:_attention": "the attention interface of transformers",
}
"""Functions with more than `MAX_PARAMETERS`: `file:name` -> reason."""

METHOD_NAMES: dict[str, str] = {
    "__init__.py": "the public names",
    "settings.py": "the default of `--method`",
    "data/convert.py": "a column of the data is called `prompt`",
    "data/recognise.py": "a column of the data is called `prompt`",
    "reports/usage.py": "a folder of a run is called `adapter`",
    "runs/place.py": "a folder of a run is called `adapter`",
    "starter/__init__.py": "a constant is called `PREFIX`",
}
"""Files that may say a method's name though they are no method: path below the package -> reason."""
