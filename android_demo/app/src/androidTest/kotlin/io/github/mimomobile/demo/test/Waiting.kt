package io.github.mimomobile.demo.test

import android.app.Instrumentation

/** What [act] gives on the main thread; an error of it is thrown here, where it ends one check and not the app. */
internal fun <T> Instrumentation.onMain(act: () -> T): T {
    var result: Result<T>? = null
    runOnMainSync { result = runCatching(act) }
    return checkNotNull(result).getOrThrow()
}

/** What [look] finds on the main thread, as soon as it finds something; after [seconds] without, an error. */
internal fun <T : Any> Instrumentation.await(what: String, seconds: Int = 60, look: () -> T?): T {
    val deadline = System.nanoTime() + seconds * 1_000_000_000L
    while (true) {
        waitForIdleSync()
        onMain(look)?.let { return it }
        if (System.nanoTime() > deadline) throw AssertionError("$what: not within $seconds s")
        Thread.sleep(LOOK_MS)
    }
}

private const val LOOK_MS = 20L
