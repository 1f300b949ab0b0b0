"""A bounded sandbox for chat templates, which are untrusted programs.

A template may do what is listed, and nothing else: the tags of `rewrite`, the operators of
`operators`, the methods of `methods`, the filters of `filters`, the tests of `checks` and the
globals of `environment`. Each has a rule of what it costs, in steps of work and in bytes, which is
drawn from the render's budget before the work is done or the result is made.
"""

from lorakit.chat.sandbox.budget import LimitError, budgeted
from lorakit.chat.sandbox.environment import BoundedEnvironment
from lorakit.chat.sandbox.listed import RefusalError

__all__ = ["BoundedEnvironment", "LimitError", "RefusalError", "budgeted"]
