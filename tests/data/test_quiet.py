import contextlib
import ctypes
import logging
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from ibot.data.decode import UnreadableImage, decode
from ibot.data.quiet import quiet


def test_only_the_thread_that_reads_is_quiet_and_nothing_is_left_behind(caplog):
    logger = logging.getLogger("PIL.TiffImagePlugin")
    filters, handlers = list(warnings.filters), list(logger.filters)
    reading, done = threading.Event(), threading.Event()

    def read():
        with quiet():
            reading.set()
            done.wait(10)
            warnings.warn("of a reader", stacklevel=1)
            logger.error("of a reader")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=read)
        thread.start()
        reading.wait(10)
        warnings.warn("of another", stacklevel=1)
        logger.error("of another")
        done.set()
        thread.join()
        assert [str(one.message) for one in caught] == ["of another"]
    assert [record.message for record in caplog.records] == ["of another"]
    assert (warnings.filters, logger.filters) == (filters, handlers)


def test_damaged_strips_of_a_tiff_leave_nothing_on_the_screen(tmp_path, capfd):
    if not hasattr(ctypes.CDLL(Image.core.__file__), "TIFFSetErrorHandler"):
        pytest.skip("this Pillow holds libtiff inside of itself")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for kind in ("tiff_lzw", "tiff_deflate", "jpeg"):
        Image.fromarray(pixels).save(path := tmp_path / f"{kind}.tif", compression=kind)
        content = bytearray(path.read_bytes())
        content[len(content) // 4 : len(content) * 3 // 4 : 7] = b"\xa5" * len(
            content[len(content) // 4 : len(content) * 3 // 4 : 7]
        )
        path.write_bytes(content)
        with contextlib.suppress(UnreadableImage):
            decode(path)
    assert capfd.readouterr() == ("", "")


def test_threads_that_end_in_any_order_leave_the_filters_as_they_were():
    before = list(warnings.filters)
    inside, leave = [threading.Event() for _ in range(3)], [threading.Event() for _ in range(3)]

    def read(number):
        with quiet(), quiet():
            inside[number].set()
            leave[number].wait(10)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        inside[number].wait(10)
    for number in (1, 0, 2):
        leave[number].set()
        threads[number].join()
    assert warnings.filters == before
