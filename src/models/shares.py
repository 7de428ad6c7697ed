"""What each of several processes has to weigh its loss with, so that their average is that of all photos."""

from collections.abc import Sequence


def loss_shares(local: Sequence[int], total: Sequence[int], world: int) -> list[float]:
    """Return this process's share of each mean of the loss, times the number of processes.

    DDP averages gradients over processes as if each had the same number of photos. A mean over this process's
    photos, times its share, averages to the mean over the photos of all.

    Args:
        local: how many photos each mean runs over here.
        total: how many it runs over in all processes.
        world: the number of processes.

    Returns:
        A factor for each mean; 0 where no process has a photo for it.
    """
    return [world * here / max(1, all_) for here, all_ in zip(local, total, strict=True)]
