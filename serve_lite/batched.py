"""What `@serve.batch` makes of a function, for type checkers: lists inside, single items outside.

A function `(list[A]) -> list[R]` is called as `(A) -> R`, awaited; one that yields lists is iterated for
items. Methods are the same after `self`. Functions of one or two lists are typed, by position (the mypy
plugin keeps the names); others take and return anything. The work is done in `batching.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar, overload

A = TypeVar("A")
B = TypeVar("B")
O = TypeVar("O")  # noqa: E741  (the owner)
R = TypeVar("R")
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
O_contra = TypeVar("O_contra", contravariant=True)


class Adjustable(Protocol):
    """What may be changed about a batched function while it runs."""

    def set_max_batch_size(self, new_max_batch_size: int) -> None:
        """Change the size from the next batch on."""

    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float) -> None:
        """Change the wait, in seconds, from the next batch on."""


class Batched(Adjustable, Protocol[P, R_co]):
    """A batched function, or method of an instance: called with one item."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class BatchedOfClass(Adjustable, Protocol[O_contra, P, R_co]):
    """A batched method as an attribute of its class: called with the instance and one item."""

    def __call__(self, owner: O_contra, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class BatchedMethod(Batched[P, R_co], Protocol[O_contra, P, R_co]):
    """A batched method in the body of its class.

    A class is called as its `__call__` is, so this one has the signature without the instance.
    """

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None, /
    ) -> BatchedOfClass[O_contra, P, R_co]: ...
    @overload
    def __get__(self, instance: O_contra, owner: type[Any] | None = None, /) -> Batched[P, R_co]: ...


class BatchDecorator(Protocol):
    """What `batch(option=...)` returns."""

    @overload
    def __call__(
        self, func: Callable[[list[A]], Coroutine[Any, Any, Iterable[R]]], /
    ) -> Batched[[A], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, func: Callable[[list[A]], AsyncIterable[Iterable[R]]], /
    ) -> Batched[[A], AsyncIterator[R]]: ...
    @overload
    def __call__(
        self, func: Callable[[list[A], list[B]], Coroutine[Any, Any, Iterable[R]]], /
    ) -> Batched[[A, B], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, func: Callable[[list[A], list[B]], AsyncIterable[Iterable[R]]], /
    ) -> Batched[[A, B], AsyncIterator[R]]: ...
    @overload
    def __call__(
        self, func: Callable[[O, list[A]], Coroutine[Any, Any, Iterable[R]]], /
    ) -> BatchedMethod[O, [A], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, func: Callable[[O, list[A]], AsyncIterable[Iterable[R]]], /
    ) -> BatchedMethod[O, [A], AsyncIterator[R]]: ...
    @overload
    def __call__(
        self, func: Callable[[O, list[A], list[B]], Coroutine[Any, Any, Iterable[R]]], /
    ) -> BatchedMethod[O, [A, B], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, func: Callable[[O, list[A], list[B]], AsyncIterable[Iterable[R]]], /
    ) -> BatchedMethod[O, [A, B], AsyncIterator[R]]: ...
    @overload
    def __call__(self, func: Callable[..., Any], /) -> Batched[..., Any]: ...
