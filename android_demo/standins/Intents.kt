package androidx.test.runner.intent

import android.app.Instrumentation
import android.content.Intent

fun interface IntentCallback {
    fun onIntentSent(intent: Intent)
}

interface IntentMonitor {
    fun addIntentCallback(callback: IntentCallback)

    fun removeIntentCallback(callback: IntentCallback)
}

fun interface IntentStubber {
    fun getActivityResultForIntent(intent: Intent): Instrumentation.ActivityResult?
}

object IntentMonitorRegistry {
    @JvmStatic
    fun registerInstance(@Suppress("UNUSED_PARAMETER") instance: IntentMonitor) = Unit
}

/** Never loaded: no intent is answered in an activity's stead. */
object IntentStubberRegistry {
    @JvmStatic
    fun isLoaded(): Boolean = false

    @JvmStatic
    fun getInstance(): IntentStubber = error("no IntentStubber is loaded")
}
