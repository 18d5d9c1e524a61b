"""Loads the tab when TensorBoard starts, and imports nothing that takes long. It knows nothing of what it shows."""

from typing import Any

from tensorboard.plugins import base_plugin


class PredictionsLoader(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard has no types
    """The entry point `predboard` in the group `tensorboard_plugins`."""

    def load(self, context: Any) -> base_plugin.TBPlugin | None:
        """Return the plugin; None where TensorBoard reads no folder on this machine, as with --logdir_spec."""
        if not context.logdir or "://" in context.logdir:
            return None
        from predboard.tab.plugin import PredictionsPlugin

        return PredictionsPlugin(context)
