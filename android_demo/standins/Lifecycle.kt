package androidx.test.runner.lifecycle

import android.app.Activity
import android.app.Application

enum class Stage { PRE_ON_CREATE, CREATED, STARTED, RESUMED, PAUSED, STOPPED, RESTARTED, DESTROYED }

enum class ApplicationStage { PRE_ON_CREATE, CREATED }

fun interface ActivityLifecycleCallback {
    fun onActivityLifecycleChanged(activity: Activity, stage: Stage)
}

fun interface ApplicationLifecycleCallback {
    fun onApplicationLifecycleChanged(application: Application, stage: ApplicationStage)
}

interface ActivityLifecycleMonitor {
    fun addLifecycleCallback(callback: ActivityLifecycleCallback)

    fun removeLifecycleCallback(callback: ActivityLifecycleCallback)

    fun getLifecycleStageOf(activity: Activity): Stage

    fun getActivitiesInStage(stage: Stage): Collection<Activity>
}

interface ApplicationLifecycleMonitor {
    fun addLifecycleCallback(callback: ApplicationLifecycleCallback)

    fun removeLifecycleCallback(callback: ApplicationLifecycleCallback)
}

object ActivityLifecycleMonitorRegistry {
    private lateinit var monitor: ActivityLifecycleMonitor

    @JvmStatic
    fun getInstance(): ActivityLifecycleMonitor = monitor

    @JvmStatic
    fun registerInstance(instance: ActivityLifecycleMonitor) {
        monitor = instance
    }
}

object ApplicationLifecycleMonitorRegistry {
    @JvmStatic
    fun registerInstance(@Suppress("UNUSED_PARAMETER") instance: ApplicationLifecycleMonitor) = Unit
}
