"""What is said of a base model that cannot be trained on."""


class UnsupportedBaseModel(RuntimeError):
    """This base model would train, but not to what it is asked to: refused when it is loaded."""
