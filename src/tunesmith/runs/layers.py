"""Brings the layers of settings together: preset < TOML file < flags, where a method's name may be a preset's."""

from __future__ import annotations

from pathlib import Path

from tunesmith import registry, settings
from tunesmith.errors import SettingsError
from tunesmith.settings import FitSettings, Tree


def resolve(flags: Tree, *, config: str | None, preset: str | None) -> FitSettings:
    """The settings that flags, a TOML file and presets give together.

    Raises:
        InputError: If a name, key or value is wrong; the message names the layer and the nearest right one.
    """
    file = settings.load_toml(Path(config)) if config else {}
    settings.from_mapping(FitSettings, file, str(config))
    presets = [settings.load_preset(preset)] if preset else []
    layers = []
    for layer in (file, flags):
        method = settings.merge(layer).get("method")
        name = method.get("name") if isinstance(method, dict) else None
        if isinstance(name, str) and name not in registry.names(registry.METHODS):
            named = load_named(name)
            presets.append(named)
            layer = {**layer, "method": {**method, "name": _method_of(named)}}  # type: ignore[dict-item]
        layers.append(layer)
    chosen = settings.from_mapping(FitSettings, settings.merge(*presets, *layers), "settings")
    if chosen.data.eval is not None and chosen.data.test_share is not None:
        raise SettingsError(
            "--eval gives the rows for the final numbers, so --test-share would hold out none. Leave one of the two out."
        )
    return chosen


def load_named(name: str) -> Tree:
    """The preset that was given as a method's name.

    Raises:
        UnknownName: If it is neither a method nor a preset; the nearest of both is named.
    """
    presets = settings.preset_names()
    if name not in presets:
        raise registry.unknown("method", name, [*registry.names(registry.METHODS), *presets])
    return settings.load_preset(name)


def _method_of(preset: Tree) -> object:
    """The name of the method that a preset sets up."""
    method = settings.merge(preset).get("method", {})
    return method.get("name", settings.DEFAULT_METHOD) if isinstance(method, dict) else method
