package io.github.mimomobile.demo.models

import android.app.ActivityManager
import android.app.ApplicationExitInfo
import android.content.Context
import android.os.Build
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.ui.bytes
import io.github.mimomobile.runtime.android.AndroidDevice
import java.io.File

/**
 * Knows at the next start that a load ended the process: the model's path is on disk from before a load until after it.
 * Android ends an app that takes too much memory without asking it, and no code of the app runs then.
 */
class LoadMarker(private val context: Context, private val settings: SettingsStore) {
    /** The model whose load did not come to its end in the process before; null when all went well. */
    val unfinished: String? = settings.loading

    fun begin(path: String) {
        settings.loading = path
    }

    fun end() {
        settings.loading = null
    }

    /** What the user is told of [unfinished], which is [entry] if its folder is still there. */
    fun problem(path: String, entry: ModelEntry?): Problem {
        val size = entry?.sizeBytes
        val facts = listOfNotNull(
            context.getString(R.string.crash_model, entry?.name ?: File(path).name),
            size?.let { context.getString(R.string.crash_size, context.bytes(it)) },
            context.getString(R.string.crash_available, context.bytes(AndroidDevice.availableBytes(context))),
            reason()?.let(context::getString),
        )
        return Problem(Problem.Kind.CRASHED, facts.joinToString(" "))
    }

    /** Why the last process ended, as far as Android tells. */
    private fun reason(): Int? {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.R) return null
        val manager = context.getSystemService(ActivityManager::class.java)
        return when (manager.getHistoricalProcessExitReasons(null, 0, 1).firstOrNull()?.reason) {
            ApplicationExitInfo.REASON_LOW_MEMORY -> R.string.crash_low_memory
            ApplicationExitInfo.REASON_CRASH_NATIVE, ApplicationExitInfo.REASON_CRASH -> R.string.crash_native
            ApplicationExitInfo.REASON_USER_REQUESTED -> R.string.crash_by_user
            else -> null
        }
    }
}
