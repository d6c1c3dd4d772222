"""Parts of situations: locks that others hold, files that were replaced, descriptors that were closed, and leaders of a
group commit. Each is a function of a scene, named as it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from support.appends.left import another_appended
from support.appends.pages import opened_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.page import Page
    from support.appends.scene import Scene


def log_descriptor_closed(scene: Scene) -> None:
    scene.close_descriptors(".jsonl")


def log_descriptor_reused(scene: Scene) -> None:
    scene.close_descriptors(".jsonl", scene.other_file(b"not a log\n" * 1000))


def log_descriptor_reused_for_a_copy(scene: Scene) -> None:
    scene.close_descriptors(".jsonl", scene.other_file(scene.file(".jsonl").read_bytes()))


def lock_descriptor_closed(scene: Scene) -> None:
    scene.close_descriptors(".lock")


def lock_descriptor_reused(scene: Scene) -> None:
    scene.close_descriptors(".lock", scene.other_file(b""))


def sync_descriptor_closed(scene: Scene) -> None:
    scene.close_descriptors(".sync")


def sync_descriptor_reused(scene: Scene) -> None:
    scene.close_descriptors(".sync", scene.other_file(b""))


def lock_file_gone(scene: Scene) -> None:
    scene.file(".lock").unlink()


def lock_file_replaced(scene: Scene) -> None:
    scene.replace_by_copy(".lock")


def sync_file_replaced(scene: Scene) -> None:
    if scene.file(".sync").exists():
        scene.replace_by_copy(".sync")


def lock_held_for_a_moment(scene: Scene, *, appends: bool = False) -> None:
    """Until this process has been refused, and is about to wait."""

    def hold() -> Callable[[], object]:
        log = scene.opened(durability="always", lock_timeout_s=None)
        if appends:
            log.append("y", "before it is held")
        held = system.open_file(str(scene.file(".lock")), write=True)
        system.lock(held.fd)

        def let_go() -> None:
            if appends:
                scene.write_line()
            system.unlock(held.fd)

        return let_go

    scene.beside(hold)


lock_held_by_one_who_appends = partial(lock_held_for_a_moment, appends=True)


def lock_held_for_good(scene: Scene) -> None:
    def hold() -> Callable[[], object]:
        held = system.open_file(str(scene.file(".lock")), write=True)
        system.lock(held.fd)
        return held.close

    scene.beside(hold)


# --- a group commit ---


def leader(scene: Scene, answer: Callable[[Scene, Page], object], ahead: int) -> None:
    """Another process leads a sync that covers the log, and ``ahead`` bytes more, when this one comes to wait."""
    another_appended(scene)

    def lead() -> Callable[[], object]:
        held = system.open_file(str(scene.file(".sync")), write=True, create=True)
        system.lock(held.fd)
        page = opened_page(scene)
        page.begin_group(page.known().group + 1, scene.file(".jsonl").stat().st_size + ahead)

        def end() -> None:
            answer(scene, page)
            held.close()

        return end

    scene.beside(lead)


def _ends(scene: Scene, page: Page, behind: int = 0) -> None:
    known = page.known()
    page.publish_group(scene.file(".jsonl").stat().st_size - behind, known, known.group)
    page.wake(known.group)


def led_by_one_who_covers_us(scene: Scene) -> None:
    leader(scene, _ends, ahead=10**6)


def led_by_one_who_began_too_early(scene: Scene) -> None:
    leader(scene, partial(_ends, behind=1), ahead=0)


def led_by_one_whose_sync_fails(scene: Scene) -> None:
    leader(scene, lambda _, page: page.publish_poison(), ahead=10**6)


def led_by_one_who_never_answers(scene: Scene) -> None:
    leader(scene, lambda _, page: None, ahead=10**6)


def led_by_one_who_dies(scene: Scene) -> None:
    leader(scene, lambda _, page: None, ahead=10**6)


def led_by_one_who_has_died(scene: Scene) -> None:
    another_appended(scene)
    opened_page(scene).begin_group(7, 10**6)
