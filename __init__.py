"""handgrad: neural networks whose every gradient is derived, written by hand, compiled and proven equal.

Three ways in: ``handgrad train`` and ``handgrad trace`` on the command line, the derivation modules in
``derivations/`` beside the kernels in ``engine/``, and the tests, which compare every gradient with
finite differences.
"""

__version__ = "0.1.0"
