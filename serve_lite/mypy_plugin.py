"""What mypy cannot see by itself: methods behind a handle's attributes, and decorated classes.

    [tool.mypy]
    plugins = ["serve_lite.mypy_plugin"]

Under it `handle.predict.remote(x)` has the types of the target's method `predict`, and a name that is no
method is an error; responses may stand for values anywhere among the arguments; and a class decorated with
`@serve.deployment` is still the class but has `bind`, `options` and whatever else a `Deployment` has.

Nothing imports this module but mypy. docs/typing.md tells what there is without it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

from mypy.checker import TypeChecker
from mypy.errorcodes import ATTR_DEFINED, MISC
from mypy.maptype import map_instance_to_supertype
from mypy.messages import format_type
from mypy.nodes import (
    ARG_STAR,
    ARG_STAR2,
    MDEF,
    CallExpr,
    Context,
    RefExpr,
    StrExpr,
    SymbolTableNode,
    TypeInfo,
)
from mypy.plugin import (
    AttributeContext,
    CheckerPluginInterface,
    ClassDefContext,
    FunctionContext,
    MethodContext,
    MethodSigContext,
    Plugin,
)
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    Overloaded,
    Parameters,
    Type,
    TypeOfAny,
    TypeVarType,
    UnionType,
    get_proper_type,
)

_HANDLE = "serve_lite.handle.DeploymentHandle"
_STREAM_HANDLE = "serve_lite.handle.DeploymentStreamHandle"
_RESPONSE = "serve_lite.responses.DeploymentResponse"
_GENERATOR = "serve_lite.responses.DeploymentResponseGenerator"
_DECORATOR = "serve_lite.deployment.deployment"
_METACLASS = "serve_lite.deployment.DeploymentClass"
_BATCH = ("serve_lite.batching.batch", "serve_lite.batched.BatchDecorator.__call__")
_KEY = "serve_lite"  #: under which the TypeInfo of a decorated class says so

_GENERATORS = {f"typing.{name}" for name in ("Iterator", "Generator", "AsyncIterator", "AsyncGenerator")}


def plugin(version: str) -> type[Plugin]:
    """Return the plugin; how mypy finds it."""
    return ServePlugin


class _Checked(NamedTuple):
    """The overload of a `remote` call that was seen last, and what the call was found to return."""

    call: Context
    line: int
    result: Type


class ServePlugin(Plugin):
    """Tells mypy's hooks apart; what each does is in the functions below."""

    _checked: _Checked | None = None

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        owner, _, name = fullname.rpartition(".")
        return partial(_method_handle, name=name) if owner in (_HANDLE, _STREAM_HANDLE) else None

    def get_method_signature_hook(self, fullname: str) -> Callable[[MethodSigContext], FunctionLike] | None:
        owner, _, name = fullname.rpartition(".")
        if owner not in (_HANDLE, _STREAM_HANDLE):
            return None
        return {"remote": self._remote, "options": _options}.get(name)

    def get_class_decorator_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        return _deploy_class if fullname == _DECORATOR else None

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        if fullname in _BATCH:
            return _keep_names
        found = self.lookup_fully_qualified(fullname)
        node = found.node if found is not None else None
        return _refuse_construction if isinstance(node, TypeInfo) and _KEY in node.metadata else None

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        return _keep_names if fullname in _BATCH else None

    def _remote(self, context: MethodSigContext) -> FunctionLike:
        """Check a call against the target's one signature instead of the overloads of `remote`.

        mypy comes here once for each overload, in their order. The call is checked the first time; the
        overloads then take anything and return what was found.
        """
        line, checked = context.default_signature.line, self._checked
        if checked is not None and checked.call is context.context and line > checked.line:
            result = checked.result
        else:
            found = _check_remote(context)
            if found is None:
                return context.default_signature
            result = found
        self._checked = _Checked(context.context, line, result)
        anything = AnyType(TypeOfAny.special_form)
        return context.default_signature.copy_modified(
            arg_types=[anything, anything],
            arg_kinds=[ARG_STAR, ARG_STAR2],
            arg_names=[None, None],
            ret_type=result,
            variables=[],
        )


# --- handles -------------------------------------------------------------------------------------


def _method_handle(context: AttributeContext, *, name: str) -> Type:
    """Return the type of `handle.name`: a handle whose target is that method."""
    owners = context.type.items if isinstance(context.type, UnionType) else [context.type]
    found = []
    for owner in map(get_proper_type, owners):
        if not isinstance(owner, Instance) or not owner.type.has_base(_HANDLE):
            continue
        if owner.type.get(name) is not None:
            return context.default_attr_type  # an attribute of the handle itself
        method = _method(context.api, _target(owner), name, context.context)
        kind = _STREAM_HANDLE if owner.type.has_base(_STREAM_HANDLE) else _HANDLE
        found.append(_instance(context.api, kind, [method or AnyType(TypeOfAny.special_form)]))
    return UnionType.make_union(found) if found else context.default_attr_type


def _options(context: MethodSigContext) -> FunctionLike:
    """Give `options(method_name="predict")` the type that `handle.predict` has."""
    signature, call, owner = context.default_signature, context.context, context.type
    if not isinstance(call, CallExpr) or not isinstance(owner, Instance):
        return signature
    given = dict(zip(call.arg_names, call.args, strict=True)).get("method_name")
    returned = get_proper_type(signature.ret_type)
    if (
        not isinstance(given, StrExpr)
        or not isinstance(returned, Instance)
        or not returned.type.has_base(_HANDLE)
    ):
        return signature
    if not isinstance(get_proper_type(returned.args[0]), AnyType):
        return signature
    method = _method(context.api, _target(owner), given.value, call)
    return (
        signature
        if method is None
        else signature.copy_modified(ret_type=returned.copy_modified(args=[method]))
    )


def _check_remote(context: MethodSigContext) -> Type | None:
    """Check a `remote` call and return its type; None if the target's one signature is not known."""
    call, owner = context.context, context.type
    if not isinstance(call, CallExpr) or not isinstance(owner, Instance):
        return None
    target = _callable(context.api, _target(owner), call)
    if target is None:
        return None
    streaming = owner.type.has_base(_STREAM_HANDLE)
    items: list[CallableType] = [
        item.copy_modified(
            arg_types=[_or_response(context.api, t) for t in item.arg_types],
            ret_type=_stream_of(context, item) if streaming else _response_of(context, item),
            name=context.default_signature.name,
            definition=context.default_signature.definition,
        )
        for item in target.items
    ]
    result, _ = _checker(context.api).expr_checker.check_call(
        items[0] if len(items) == 1 else Overloaded(items), call.args, call.arg_kinds, call, call.arg_names
    )
    return result


def _response_of(context: MethodSigContext, target: CallableType) -> Type:
    """Return the response of a call: what is awaited, if the target is async."""
    value = get_proper_type(target.ret_type)
    if isinstance(value, Instance):
        if value.type.fullname in _GENERATORS:
            _fail(context, 'The target is a generator; use "options(stream=True)" to receive its items')
        if value.type.has_base("typing.Awaitable"):
            value = get_proper_type(_argument_of(value, "typing.Awaitable"))
    return _instance(context.api, _RESPONSE, [value])


def _stream_of(context: MethodSigContext, target: CallableType) -> Type:
    """Return the stream of a call: of what the generator yields."""
    value = get_proper_type(target.ret_type)
    item: Type = AnyType(TypeOfAny.special_form)
    if isinstance(value, AnyType):
        return _instance(context.api, _GENERATOR, [item])
    bases = ("typing.AsyncIterable", "typing.Iterator")
    kinds = [base for base in bases if isinstance(value, Instance) and value.type.has_base(base)]
    if isinstance(value, Instance) and value.type.fullname == "typing.Iterable":
        kinds = ["typing.Iterable"]  # generators may be annotated so; a list, which is iterable too, is none
    if isinstance(value, Instance) and kinds:
        item = _argument_of(value, kinds[0])
    else:
        returned = format_type(value, _checker(context.api).options)
        _fail(context, f"The target returns {returned}; a call with stream=True needs a generator")
    return _instance(context.api, _GENERATOR, [item])


def _or_response(api: CheckerPluginInterface, value: Type) -> Type:
    """Return a parameter's type for callers, who may give a response that will have such a value."""
    if isinstance(get_proper_type(value), AnyType | Parameters):
        return value
    return UnionType.make_union([value, _instance(api, _RESPONSE, [value])])


def _target(handle: Instance) -> Type:
    """Return what a handle is a handle to: the T of DeploymentHandle[T]."""
    base = next(info for info in handle.type.mro if info.fullname == _HANDLE)
    return map_instance_to_supertype(handle, base).args[0]


def _method(api: CheckerPluginInterface, target: Type, name: str, where: Context) -> Type | None:
    """Return the type of a method of the target; None if nothing is known about it, or nothing good."""
    owner = get_proper_type(target)
    if isinstance(owner, TypeVarType):
        owner = get_proper_type(owner.upper_bound)
    if not isinstance(owner, Instance) or owner.type.fullname == "builtins.object":
        return None  # of a function, or of anything
    checker = _checker(api)
    with checker.msg.filter_errors() as errors:
        found = checker.expr_checker.analyze_external_member_access(name, owner, where)
    if errors.has_new_errors():
        known = difflib.get_close_matches(name, _method_names(owner.type), n=1)
        maybe = f'; maybe "{known[0]}"?' if known else ""
        api.fail(f'"{owner.type.name}" has no method "{name}"{maybe}', where, code=ATTR_DEFINED)
        return None
    if isinstance(get_proper_type(found), AnyType):
        return None
    method = _callable(api, found, where)
    if method is None:
        api.fail(f'"{name}" of "{owner.type.name}" is no method', where, code=ATTR_DEFINED)
    return method


def _callable(api: CheckerPluginInterface, value: Type, where: Context) -> FunctionLike | None:
    """Return how a value is called; None if it cannot be, or as anybody likes."""
    value = get_proper_type(value)
    for _ in range(3):  # an object whose __call__ is an object (a batched one) is as deep as it gets
        if isinstance(value, FunctionLike):
            return value
        if not isinstance(value, Instance) or value.type.get("__call__") is None:
            return None
        checker = _checker(api)
        with checker.msg.filter_errors() as errors:
            value = get_proper_type(
                checker.expr_checker.analyze_external_member_access("__call__", value, where)
            )
        if errors.has_new_errors():
            return None
    return None


def _method_names(info: TypeInfo) -> list[str]:
    return [name for base in info.mro[:-1] for name in base.names]


def _argument_of(value: Instance, base: str) -> Type:
    """Return the first type argument that `value` has as one of its generic bases."""
    info = next(info for info in value.type.mro if info.fullname == base)
    return map_instance_to_supertype(value, info).args[0]


def _instance(api: CheckerPluginInterface, fullname: str, args: list[Type]) -> Instance:
    """Return one of our own generic classes with these arguments."""
    module, _, name = fullname.rpartition(".")
    info = _checker(api).modules[module].names[name].node
    assert isinstance(info, TypeInfo)
    return Instance(info, args)


def _checker(api: CheckerPluginInterface) -> TypeChecker:
    return cast(TypeChecker, api)  # the interface lacks member access, which is all that is wanted here


def _fail(context: MethodSigContext, message: str) -> None:
    context.api.fail(message, context.context, code=MISC)


# --- batched functions -----------------------------------------------------------------------------


def _keep_names(context: FunctionContext | MethodContext) -> Type:
    """Return the type of a batched function with its parameters' names, which plain types lose."""
    batched = get_proper_type(context.default_return_type)
    given = context.arg_types[0] if context.arg_types else []
    function = get_proper_type(given[0]) if given else None
    if not isinstance(batched, Instance) or not isinstance(function, CallableType):
        return batched
    return batched.copy_modified(args=[_named(argument, function) for argument in batched.args])


def _named(argument: Type, function: CallableType) -> Type:
    inside = get_proper_type(argument)
    count = len(inside.arg_types) if isinstance(inside, Parameters) else 0
    if not isinstance(inside, Parameters) or any(kind.is_star() for kind in inside.arg_kinds):
        return argument
    return inside.copy_modified(arg_names=function.arg_names[-count:], arg_kinds=function.arg_kinds[-count:])


# --- decorated classes -----------------------------------------------------------------------------


def _deploy_class(context: ClassDefContext) -> None:
    """Make a decorated class a deployment as well: by its metaclass, so that instances stay as they are.

    A class with a metaclass of its own, other than ABCMeta, is left as it is.
    """
    info = context.cls.info
    metaclass = context.api.named_type(_METACLASS)
    own = info.metaclass_type
    if own is not None and not metaclass.type.has_base(own.type.fullname):
        return
    info.metaclass_type = info.declared_metaclass = metaclass
    info.metadata[_KEY] = {"deployment": True}
    # The class under another name, so that it can be extended and be written in annotations.
    info.names["func_or_class"] = SymbolTableNode(MDEF, info, plugin_generated=True)


def _refuse_construction(context: FunctionContext) -> Type:
    """Report `Model(...)`, which raises: a decorated class is no longer callable."""
    callee = context.context.callee if isinstance(context.context, CallExpr) else None
    if isinstance(callee, RefExpr) and isinstance(callee.node, TypeInfo):
        name = callee.node.name
        if getattr(callee, "name", "") == name:
            context.api.fail(
                f'Deployment "{name}" cannot be constructed directly; use "{name}.bind(...)", or '
                f'"{name}.func_or_class(...)" for the plain one',
                context.context,
                code=MISC,
            )
    return context.default_return_type
