import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")


@pytest.fixture
def isa(request):
    """Forces the ISA level that a test names in its parameters."""
    from support import forced_isa, require_isa

    require_isa(request.param)
    with forced_isa(request.param):
        yield request.param
