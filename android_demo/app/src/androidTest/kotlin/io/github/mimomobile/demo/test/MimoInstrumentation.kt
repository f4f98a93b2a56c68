package io.github.mimomobile.demo.test

import android.app.Activity
import android.app.Instrumentation
import android.os.Bundle
import android.util.Log

/**
 * Runs [DeviceChecks] and reports as AndroidX's runner does, so that `am instrument -w -r` and Gradle's
 * connectedAndroidTest understand it, with the framework alone.
 *
 * Source: https://developer.android.com/reference/android/app/Instrumentation and, for keys and codes,
 * https://github.com/android/android-test/blob/main/runner/android_junit_runner/java/androidx/test/internal/runner/listener/InstrumentationResultPrinter.java
 */
class MimoInstrumentation : Instrumentation() {
    override fun onCreate(arguments: Bundle?) {
        super.onCreate(arguments)
        start()
    }

    override fun onStart() {
        super.onStart()
        waitForIdleSync() // then there is an Application
        val checks = DeviceChecks(this) { context.assets.open(it) }
        val failed = checks.use { it.all.filterIndexed { index, check -> !passes(check, index + 1, it.all.size) } }
        val result = Bundle()
        result.putString("mimo", checks.facts.toString())
        result.putString(REPORT_KEY_STREAMRESULT, "\n\n${checks.all.size} checks, ${failed.size} failed\n")
        finish(Activity.RESULT_OK, result)
    }

    private fun passes(check: Check, number: Int, total: Int): Boolean {
        val status = Bundle()
        status.putString(REPORT_KEY_IDENTIFIER, "AndroidJUnitRunner") // some readers want this one
        status.putString("class", DeviceChecks::class.java.name)
        status.putString("test", check.name)
        status.putInt("current", number)
        status.putInt("numtests", total)
        status.putString(REPORT_KEY_STREAMRESULT, "\n${check.name}:")
        sendStatus(STARTED, status)
        val error = runCatching(check.run).exceptionOrNull()
        status.putString(REPORT_KEY_STREAMRESULT, if (error == null) " ok" else " $error")
        if (error != null) status.putString("stack", Log.getStackTraceString(error))
        sendStatus(if (error == null) PASSED else FAILED, status)
        return error == null
    }

    private companion object {
        const val STARTED = 1
        const val PASSED = 0
        const val FAILED = -2
    }
}
