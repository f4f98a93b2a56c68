package io.github.mimomobile.runtime.android

import android.app.ActivityManager
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.Configuration
import android.os.Build
import android.os.PowerManager
import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.Heat
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.devices.setOnAndroid
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch

/** What Android knows and plain Kotlin does not. The only file of this library that needs Android's classes. */
public object AndroidDevice {
    /** Memory that may still be taken before Android begins to end apps; for `EngineConfig.availableBytes`. */
    public fun availableBytes(context: Context): Long {
        val manager = context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
        val memory = ActivityManager.MemoryInfo().also(manager::getMemoryInfo)
        return maxOf(0, memory.availMem - memory.threshold)
    }

    /** The chip, such as `SM8750`; for `EngineConfig.soc`. Null before Android 12, which does not tell. */
    public fun soc(): String? {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.S) return null
        return Build.SOC_MODEL.takeIf { it != Build.UNKNOWN }
    }

    /**
     * Tells Qualcomm's NPU where this app's part of QNN for it lies, before a model is loaded with it. The app must be
     * packaged with `useLegacyPackaging`, as the NPU reads files only.
     */
    public fun setUpNpu(context: Context) {
        val folder: String? = context.applicationInfo.nativeLibraryDir // null under Robolectric
        if (folder != null) setOnAndroid("ADSP_LIBRARY_PATH", folder)
    }

    /**
     * What an NPU's numbers and speed depend on; for `EngineConfig.driver`. This build of Android brings the driver, and
     * this installation of the app brings ONNX Runtime and QNN.
     */
    public fun driver(context: Context): String {
        val app = context.packageManager.getPackageInfo(context.packageName, 0)
        return "${Build.FINGERPRINT} ${app.lastUpdateTime}"
    }

    /** How hot the device is; for `EngineConfig.heat`. Before Android 10, which does not tell, [Heat.NONE]. */
    public fun heat(context: Context): Heat {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return Heat.NONE
        val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager
        // From THERMAL_STATUS_NONE, 0, to THERMAL_STATUS_SHUTDOWN, 6.
        return Heat.entries[power.currentThermalStatus.coerceIn(0, Heat.entries.lastIndex)]
    }

    /**
     * Unloads an engine's model when Android is short of memory and the app is in the background, so that the app is not
     * ended for it: [EngineState.Empty] then says that it must be loaded again. While a model is loaded or generates it
     * stays. Closing what is returned ends this.
     */
    public fun unloadWhenMemoryIsShort(context: Context, engine: MimoEngine): AutoCloseable {
        val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default)
        val callbacks = object : ComponentCallbacks2 {
            override fun onTrimMemory(level: Int) {
                if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) unload()
            }

            @Deprecated("Android calls onTrimMemory instead")
            override fun onLowMemory() = unload()

            override fun onConfigurationChanged(newConfig: Configuration) = Unit

            private fun unload() {
                scope.launch {
                    try {
                        engine.unload()
                    } catch (_: MimoException.WrongState) { // it is in use, or closed
                    }
                }
            }
        }
        val application = context.applicationContext
        application.registerComponentCallbacks(callbacks)
        return AutoCloseable {
            application.unregisterComponentCallbacks(callbacks)
            scope.cancel()
        }
    }
}
