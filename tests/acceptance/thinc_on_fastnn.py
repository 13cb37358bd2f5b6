"""pytest plugin: thinc's own tests with fastnn's Ops in the place of `NumpyOps`.

Every module of thinc that holds `NumpyOps` holds this class instead, and so does the registry: what
the tests construct, what is current and what `get_ops("numpy")` gives.
"""

import sys

import thinc.api
from thinc.api import NumpyOps, get_current_ops, registry

from fastnn.thinc import FastnnOps


class ActiveOps(FastnnOps):
    name = "numpy"


for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == "thinc"]:
    for name, value in list(vars(module).items()):
        if value is NumpyOps:
            setattr(module, name, ActiveOps)
registry.ops.register("NumpyOps", func=ActiveOps)


def pytest_report_header():
    assert thinc.api.NumpyOps is ActiveOps
    assert type(get_current_ops()) is ActiveOps
    return "thinc's ops: fastnn"
