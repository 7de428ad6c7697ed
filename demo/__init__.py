"""The demo set: photos of a tunnel's fixtures with the statistics of a real team's data, and known truth."""
