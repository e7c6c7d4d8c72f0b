"""Classes of Mixtral, by the names that rule files match."""
from ktransformers.models.historic import publish

publish(__name__, "mixtral", "Mixtral", {})
