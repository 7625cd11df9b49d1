def test_smoke(daemon):
    import time
    t=time.monotonic()
    daemon.start(); print("up", time.monotonic()-t)
    daemon.wait_phase("ready"); print("ready", time.monotonic()-t)
    print(daemon.says("hi"), daemon.status())
    t=time.monotonic()
    daemon.swap("org/b"); print("swap", time.monotonic()-t)
    t=time.monotonic()
    assert daemon.stop()==0; print("stop", time.monotonic()-t)
    t=time.monotonic()
