from tests.small_project import dark_hole, embedded, project  # noqa: F401
