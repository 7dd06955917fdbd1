from recorded import show  # noqa: F401 - a fixture
