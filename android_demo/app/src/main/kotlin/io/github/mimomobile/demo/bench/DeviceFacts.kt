package io.github.mimomobile.demo.bench

import android.app.ActivityManager
import android.content.Context
import android.os.Build
import io.github.mimomobile.demo.Vitals
import io.github.mimomobile.runtime.android.AndroidDevice
import java.io.File
import java.io.IOException
import org.json.JSONArray
import org.json.JSONObject

/** What a record tells of the phone and the app. */
class DeviceFacts(private val context: Context, private val vitals: Vitals) {
    fun device(): JSONObject {
        val modern = Build.VERSION.SDK_INT >= Build.VERSION_CODES.S
        val memory = ActivityManager.MemoryInfo()
        context.getSystemService(ActivityManager::class.java)?.getMemoryInfo(memory)
        val signs = vitals.read()
        val cpuinfo = lines("/proc/cpuinfo").firstOrNull { it.startsWith("Features") || it.startsWith("flags") }
        val clocks = (0 until Runtime.getRuntime().availableProcessors()).mapNotNull {
            lines("/sys/devices/system/cpu/cpu$it/cpufreq/cpuinfo_max_freq").firstOrNull()?.toIntOrNull()
        }
        return JSONObject()
            .put("name", "${Build.MANUFACTURER} ${Build.MODEL}")
            .put("manufacturer", Build.MANUFACTURER)
            .put("model", Build.MODEL)
            .put("android", Build.VERSION.RELEASE)
            .put("soc_manufacturer", orNull(if (modern) Build.SOC_MANUFACTURER else null))
            .put("soc_model", orNull(if (modern) Build.SOC_MODEL else null))
            .put("board", Build.BOARD)
            .put("abi", orNull(Build.SUPPORTED_ABIS.firstOrNull()))
            .put("cpu_features", JSONArray(cpuinfo?.substringAfter(':')?.trim()?.split(' ').orEmpty()))
            .put("cores", Runtime.getRuntime().availableProcessors())
            .put("core_max_khz", JSONArray(clocks))
            .put("memory_bytes", memory.totalMem)
            .put("available_bytes", AndroidDevice.availableBytes(context))
            .put("storage_free_bytes", context.filesDir.usableSpace)
            .put("battery_percent", orNull(signs.batteryPercent))
            .put("battery_temperature_c", orNull(signs.batteryTemperatureC))
            .put("powered", orNull(signs.powered))
            .put("thermal_status", orNull(signs.thermalStatus))
    }

    fun app(): JSONObject {
        val info = context.packageManager.getPackageInfo(context.packageName, 0)
        return JSONObject().put("name", context.packageName).put("version", orNull(info.versionName))
    }

    fun after(): JSONObject {
        val signs = vitals.read()
        return JSONObject()
            .put("battery_percent", orNull(signs.batteryPercent))
            .put("battery_temperature_c", orNull(signs.batteryTemperatureC))
            .put("available_bytes", AndroidDevice.availableBytes(context))
            .put("thermal_status", orNull(signs.thermalStatus))
    }
}

/** A value that JSON shows where there is none, too. */
fun orNull(value: Any?): Any = value ?: JSONObject.NULL

private fun lines(path: String): List<String> = try {
    File(path).readLines()
} catch (_: IOException) {
    emptyList()
}
