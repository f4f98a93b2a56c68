package io.github.mimomobile.demo

import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import java.io.File
import java.io.IOException

/** What the phone reads of itself at one moment; what it does not let us read is null. */
data class VitalSigns(
    val memoryBytes: Long?,
    val batteryTemperatureC: Double?,
    val batteryPercent: Int?,
    val batteryVoltageUv: Long?,
    val batteryCurrentUa: Int?,
    val batteryStatus: String?,
    val powered: Boolean?,
    val thermalStatus: Int?,
)

/** Reads memory, battery and heat; quick enough for the main thread. */
class Vitals(private val context: Context) {
    fun read(): VitalSigns {
        // Sticky: the last one is returned at once, and no receiver is registered.
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        val level = battery.int(BatteryManager.EXTRA_LEVEL)
        val scale = battery.int(BatteryManager.EXTRA_SCALE)
        val manager = context.getSystemService(BatteryManager::class.java)
        val current = manager?.getIntProperty(BatteryManager.BATTERY_PROPERTY_CURRENT_NOW)
        return VitalSigns(
            memoryBytes = statusBytes("VmRSS"),
            batteryTemperatureC = battery.int(BatteryManager.EXTRA_TEMPERATURE)?.let { it / 10.0 },
            batteryPercent = if (level != null && scale != null && scale > 0) level * 100 / scale else null,
            batteryVoltageUv = battery.int(BatteryManager.EXTRA_VOLTAGE)?.let { it * 1000L },
            batteryCurrentUa = current.takeIf { it != Int.MIN_VALUE && it != 0 },
            batteryStatus = battery.int(BatteryManager.EXTRA_STATUS)?.let(STATUS::get),
            powered = battery.int(BatteryManager.EXTRA_PLUGGED)?.let { it != 0 },
            thermalStatus = thermalStatus(),
        )
    }

    private fun thermalStatus(): Int? {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return null
        return context.getSystemService(PowerManager::class.java)?.currentThermalStatus
    }

    private fun Intent?.int(name: String): Int? = this?.getIntExtra(name, Int.MIN_VALUE)?.takeIf { it != Int.MIN_VALUE }

    private companion object {
        /** As the kernel names them. */
        val STATUS = mapOf(
            BatteryManager.BATTERY_STATUS_CHARGING to "Charging",
            BatteryManager.BATTERY_STATUS_DISCHARGING to "Discharging",
            BatteryManager.BATTERY_STATUS_FULL to "Full",
            BatteryManager.BATTERY_STATUS_NOT_CHARGING to "Not charging",
        )
    }
}

/** A line of /proc/self/status that counts memory, `VmRSS` say: pages of the mapped model are in it. */
fun statusBytes(name: String): Long? = try {
    File("/proc/self/status").useLines { lines ->
        lines.firstOrNull { it.startsWith("$name:") }?.filter(Char::isDigit)?.toLongOrNull()?.times(1024)
    }
} catch (_: IOException) {
    null
}
