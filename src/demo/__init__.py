"""The demo set: photos of a tunnel's fixtures with a real team's statistics, and known truth."""

from src.demo.make import make_demo
from src.demo.plan import COMPONENTS, DEFECTS, HEALTHY, Photo, plan_demo
from src.demo.render import draw_photo, render_photo
from src.demo.sheet import colour_histogram_baseline, contact_sheet
from src.demo.tables import Entry, read_truth, write_down

__all__ = [
    "COMPONENTS",
    "DEFECTS",
    "HEALTHY",
    "Entry",
    "Photo",
    "colour_histogram_baseline",
    "contact_sheet",
    "draw_photo",
    "make_demo",
    "plan_demo",
    "read_truth",
    "render_photo",
    "write_down",
]
