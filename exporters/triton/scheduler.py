"""Batches by the step: images enter and leave a running batch between its steps. No server is needed.

Who gets a free place: the waiting requests take turns in the order in which they came, one image a turn. Of requests
of one image the first comes first. A request of many images gets one place a turn, so that those behind it wait for one
of its images and not for all of them; its answer is given when its last image is done.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from asked import Wanted, trouble
from images import Image

INVALID, INTERNAL, CANCELLED, LATE, FULL, ENDING = "invalid", "internal", "cancelled", "late", "full", "ending"
"""Why a request has no images: `Refusal.kind`."""


class Refusal(Exception):
    """Why a request gets no images."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Request:
    """What is asked, and who is told.

    Attributes:
        on_done: takes the images (C, H, W) in the request's order. This or on_error is called, once, by the worker's
            thread, which waits for it: it must be quick.
        on_preview: takes an image's number in the request, its steps that are done, and x_0 (C, H, W) as it is guessed
            then.
        preview_every: steps from one preview of an image to the next; 0: none.
        within_s: seconds from `submit` in which it must be done; None: any time.
        is_cancelled: asked before each step; it must be quick.
    """

    images: Sequence[Wanted]
    on_done: Callable[[list[np.ndarray]], None]
    on_error: Callable[[Refusal], None]
    on_preview: Callable[[int, int, np.ndarray], None] | None = None
    preview_every: int = 0
    within_s: float | None = None
    is_cancelled: Callable[[], bool] = lambda: False


@dataclass(eq=False)
class Ticket:
    """A request that was taken.

    Attributes:
        waiting: numbers of its images that have no place yet.
        steps: that its images have run, all together.
        over: it was answered.
    """

    request: Request
    since: float
    waiting: deque[int]
    began: float | None = None
    steps: int = 0
    over: bool = False
    dropped: bool = False
    drawn: dict[int, np.ndarray] = field(default_factory=dict)

    def cancel(self) -> None:
        """Leave before the next step; any thread may call it."""
        self.dropped = True


@dataclass(eq=False)
class Place:
    """A running image, and the request that it is of."""

    ticket: Ticket
    number: int
    image: Image


class StepScheduler:
    """Runs requests step by step in one batch. Close it.

    Args:
        move: one step of each of the images; only one thread calls it, that of `start` or the caller of `run_step`.
        finish: samples -> images as they are given back, decoded where there is a decoder.
        places: images that run at the same time, at most.
        most_waiting: images that may wait for a place; None: any number.
        clock: seconds.
        log: takes a line on what no request can be told.

    Attributes:
        counts: of requests done, cancelled, late, full, invalid, internal and ending; of steps run; of image_steps, a
            step of one image each, and of these wasted_image_steps, whose request got no images.
    """

    def __init__(
        self,
        move: Callable[[list[Image]], None],
        finish: Callable[[list[np.ndarray]], list[np.ndarray]],
        *,
        places: int,
        most_waiting: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._move, self._finish, self._clock, self._log = move, finish, clock, log
        self.places, self.most_waiting = places, most_waiting
        self.counts: Counter[str] = Counter()
        self._running: list[Place] = []
        self._queue: deque[Ticket] = deque()  # tickets with images that wait, the next turn's first
        self._waiting = 0  # images of the queue
        self._changed = threading.Condition()  # guards the queue and what is counted of it
        self._ending = False
        self._worker: threading.Thread | None = None

    def submit(self, request: Request) -> Ticket:
        """Take a request; it starts at the next step where there is a place. Any thread may call it.

        Raises:
            Refusal: the queue is full, or the scheduler is closed. The request is told nothing.
        """
        count = len(request.images)
        ticket = Ticket(request, self._clock(), deque(range(count)))
        with self._changed:
            if self._ending:
                self.counts[ENDING] += 1
                raise Refusal(ENDING, "the server is ending")
            free = max(0, self.places - len(self._running))
            if self.most_waiting is not None and self._waiting + count > self.most_waiting + free:
                self.counts[FULL] += 1
                raise Refusal(
                    FULL,
                    f"the queue is full: {self._waiting} images wait for {self.places} places, and at most "
                    f"{self.most_waiting} may. Ask again later or for fewer images, or raise max_queue_size",
                )
            self._queue.append(ticket)
            self._waiting += count
            self._changed.notify()
        return ticket

    def run_step(self) -> bool:
        """One step of the batch: who is cancelled or late leaves, who waits enters, all move, who is done is answered.

        Returns:
            Whether there was anything to run.
        """
        self._drop()
        self._admit()
        if not self._running:
            return False
        places = self._running
        try:
            self._move([place.image for place in places])
        except Exception as error:
            self._fail({place.ticket for place in places}, error)
            return True
        self.counts["steps"] += 1
        self.counts["image_steps"] += len(places)
        for place in places:
            place.ticket.steps += 1
        # Before the answers: who has one and asks again finds the place free.
        self._running = [place for place in places if not place.image.done and place.image.bad < 0]
        try:
            self._answer(places)
        except Exception as error:  # its own requests alone: who is done runs no more, and nobody else would tell them
            self._fail({place.ticket for place in places}, error)
        return True

    def open_tickets(self) -> list[Ticket]:
        """Requests without an answer, those that run first; any thread may call it."""
        with self._changed:
            return list(dict.fromkeys([*(place.ticket for place in self._running), *self._queue]))

    def start(self) -> None:
        """Run steps in a thread of its own, until `close`."""
        self._worker = threading.Thread(target=self._work, name="steps", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """Stop after the running step, and tell requests that are not done."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        if self._worker is not None:
            self._worker.join()
        for ticket in self.open_tickets():
            self._end(ticket, Refusal(ENDING, f"the server is ending; {self._state(ticket)}"))
        self._sweep()

    def _work(self) -> None:
        while not self._ending:
            try:
                busy = self.run_step()
            except Exception as error:  # a mistake in here: nobody may wait for ever
                self._log(f"the scheduler failed: {type(error).__name__}: {error}")
                self._fail(set(self.open_tickets()), error)
                continue
            if not busy:
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._ending)

    def _drop(self) -> None:
        """End what is cancelled or late."""
        now = self._clock()
        for ticket in self.open_tickets():
            within = ticket.request.within_s
            if ticket.dropped or ticket.request.is_cancelled():
                self._end(ticket, Refusal(CANCELLED, f"cancelled; {self._state(ticket)}"))
            elif within is not None and now - ticket.since > within:
                late = (
                    f"not done in the {within:g} s that it had; {self._state(ticket)}. Give it more time or fewer steps"
                )
                self._end(ticket, Refusal(LATE, late))
        self._sweep()

    def _sweep(self) -> None:
        """Free the places and the queue of what is over."""
        with self._changed:
            self._running = [place for place in self._running if not place.ticket.over]
            if any(ticket.over for ticket in self._queue):
                self._queue = deque(ticket for ticket in self._queue if not ticket.over)
                self._waiting = sum(len(ticket.waiting) for ticket in self._queue)

    def _admit(self) -> None:
        """Fill the free places."""
        while len(self._running) < self.places:
            with self._changed:
                if not self._queue:
                    return
                ticket = self._queue.popleft()
                number = ticket.waiting.popleft()
                self._waiting -= 1
                if ticket.waiting:
                    self._queue.append(ticket)
            if ticket.began is None:
                ticket.began = self._clock()
            try:
                place = Place(ticket, number, ticket.request.images[number].image())
            except Exception as error:
                self._fail({ticket}, error)
                continue
            with self._changed:
                self._running.append(place)

    def _answer(self, places: list[Place]) -> None:
        """Give out what this step has finished, and previews."""
        shown: list[tuple[Place, np.ndarray]] = []
        for place in places:
            image, ticket = place.image, place.ticket
            if ticket.over:  # by another of its images
                continue
            if image.bad >= 0:
                self._end(ticket, Refusal(INVALID, trouble(image)))
            elif image.done:
                shown.append((place, image.x))
            elif self._previews(place):
                shown.append((place, image.clean()))
        shown = [one for one in shown if not one[0].ticket.over]
        if not shown:
            return
        try:
            finished = self._finish([sample for _, sample in shown])
        except Exception as error:
            self._fail({place.ticket for place, _ in shown}, error)
            return
        for (place, _), picture in zip(shown, finished, strict=True):
            self._give(place, picture)

    def _previews(self, place: Place) -> bool:
        request = place.ticket.request
        return (
            request.on_preview is not None
            and request.preview_every > 0
            and not place.image.step % request.preview_every
        )

    def _give(self, place: Place, picture: np.ndarray) -> None:
        ticket, image = place.ticket, place.image
        if ticket.over:
            return
        if not np.isfinite(picture).all():
            if image.done:  # of a preview it is no fault of the image
                image.bad = len(image.plan.timesteps)
                self._end(ticket, Refusal(INVALID, trouble(image)))
        elif not image.done:
            if ticket.request.on_preview is not None:
                self._tell(ticket.request.on_preview, place.number, image.step, picture)
        else:
            ticket.drawn[place.number] = picture.copy()  # the array of the whole batch need not stay
            if len(ticket.drawn) == len(ticket.request.images):
                self.counts["done"] += 1
                ticket.over = True
                self._tell(ticket.request.on_done, [ticket.drawn[i] for i in range(len(ticket.drawn))])

    def _fail(self, tickets: set[Ticket], error: Exception) -> None:
        """End requests by an error that is not theirs; the scheduler goes on."""
        for ticket in tickets:
            self._end(ticket, Refusal(INTERNAL, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"))
        self._sweep()

    def _end(self, ticket: Ticket, why: Refusal) -> None:
        """Answer a request without images."""
        if ticket.over:
            return
        self.counts[why.kind] += 1
        self.counts["wasted_image_steps"] += ticket.steps
        ticket.over = True
        self._tell(ticket.request.on_error, why)

    def _state(self, ticket: Ticket) -> str:
        """How long a request waited and ran, in words."""
        now = self._clock()
        if ticket.began is None:
            return f"it waited {now - ticket.since:.3f} s and had no place yet"
        total = sum(len(wanted.plan.timesteps) for wanted in ticket.request.images)
        ran = f"{now - ticket.began:.3f} s, {ticket.steps} of {total} steps"
        return f"it waited {ticket.began - ticket.since:.3f} s for a place and ran for {ran}"

    def _tell(self, told: Callable[..., None], *values: object) -> None:
        """Call a request's function; what it raises reaches nobody else."""
        try:
            told(*values)
        except Exception as error:
            self._log(f"an answer was not taken: {type(error).__name__}: {error}")
