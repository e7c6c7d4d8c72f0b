import pytest


@pytest.fixture(scope="session")
def small_models(tmp_path_factory):
    """small_models(name): a small random model, made once."""
    from injected import SmallModel
    made = {}

    def get(name: str) -> SmallModel:
        if name not in made:
            made[name] = SmallModel(name, tmp_path_factory.mktemp(name))
        return made[name]
    return get
