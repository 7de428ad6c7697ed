"""Log messages of a training: one clean line each, without Lightning's adverts."""

import logging
import threading
import warnings

EXCEPTHOOK = threading.excepthook


class NoAdverts(logging.Filter):
    """Drops Lightning's tips for its own products, and its notes on accelerators and signals."""

    PHRASES = (
        "💡",
        "litlogger",
        "litmodels",
        "GPU available",
        "TPU available",
        "HPU available",
        "Loaded model weights",
        "Restoring states",
        "Restored all states",
        "weights_only",
        "stopped: `max_epochs",
        "LOCAL_RANK",
        "Initializing distributed",
        "All distributed processes registered",
        "to estimate number of stepping batches",
        "Received SIGTERM",
        "Detected KeyboardInterrupt",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record may pass."""
        if not record.name.startswith("lightning"):
            return True
        message = record.getMessage()
        return not any(phrase in message for phrase in self.PHRASES)


def _print_unless_reported(failed: threading.ExceptHookArgs) -> None:
    """Print the error of a thread, except a full disk under TensorBoard's writer, which raises it itself."""
    reported = type(failed.thread).__name__ == "_AsyncWriterThread" and issubclass(failed.exc_type, OSError)
    if not reported:
        EXCEPTHOOK(failed)


def quiet_lightning() -> None:
    """Let Lightning's messages pass through the script's own handlers once, without adverts."""
    threading.excepthook = _print_unless_reported
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, NoAdverts) for known in handler.filters):
            handler.addFilter(NoAdverts())
    for phrase in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The number of training batches.*is smaller than the logging interval.*",
        ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
        ".*pin_memory.*",
        ".*You are using `torch.load`.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*module.s. in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message=phrase)
