"""What a stage may read of the parameters."""


class View:
    """The part of the parameters that a stage declares; reading anything else is an error of the stage.

    dvc.yaml lists the same declaration, so that DVC reruns a stage for exactly what it reads.
    """

    def __init__(self, value, declared: list[list[str]], place: tuple[str, ...] = ()):
        self._value, self._declared, self._place = value, declared, place

    def __getattr__(self, key: str):
        place = (*self._place, key)
        value = self._value[key] if isinstance(self._value, dict) else getattr(self._value, key)
        if any(list(place[: len(declared)]) == declared for declared in self._declared):
            return value
        if any(declared[: len(place)] == list(place) for declared in self._declared):
            return View(value, self._declared, place)
        raise AttributeError(f"this stage reads {'.'.join(place)}, which its PARAMS does not declare")

    __getitem__ = __getattr__
