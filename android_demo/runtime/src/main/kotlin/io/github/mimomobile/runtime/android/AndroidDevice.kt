package io.github.mimomobile.runtime.android

import android.app.ActivityManager
import android.content.Context

/** What Android knows and plain Kotlin does not. The only file of this library that needs Android's classes. */
public object AndroidDevice {
    /** Memory that may still be taken before Android begins to end apps; for `EngineConfig.availableBytes`. */
    public fun availableBytes(context: Context): Long {
        val manager = context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
        val memory = ActivityManager.MemoryInfo().also(manager::getMemoryInfo)
        return maxOf(0, memory.availMem - memory.threshold)
    }
}
