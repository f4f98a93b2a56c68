package io.github.mimomobile.demo

import android.annotation.SuppressLint
import android.content.Context
import android.os.PowerManager
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.distinctUntilChanged
import kotlinx.coroutines.flow.map

/**
 * Keeps the CPU running while there is work, and only then. With the screen off Android would stop it soon, and with it the
 * answer: a foreground service keeps the process, not the CPU. Returns when [work] ends, which a running app's never does.
 */
@SuppressLint("WakelockTimeout") // a long answer takes an hour, and the process's end releases the lock, too
suspend fun keepAwake(context: Context, work: Flow<Work?>) {
    val power = context.getSystemService(PowerManager::class.java)
    val lock = power.newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "mimo:work").apply { setReferenceCounted(false) }
    try {
        work.map { it != null }.distinctUntilChanged().collect { if (it) lock.acquire() else lock.release() }
    } finally {
        lock.release()
    }
}
