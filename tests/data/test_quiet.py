import logging
import threading
import warnings

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
