"""Keys that an earlier version had, each with what to write instead."""

RENAMED: dict[str, str] = {
    "algorithm.preset": (
        "is no key any more: name configs/presets/as-paper.yaml or as-code.yaml as a base (base= on"
        " the command line), or set algorithm.bonus and algorithm.aggregation"
    ),
}
