package io.github.mimomobile.demo.test

import android.Manifest
import android.app.Instrumentation
import android.content.pm.PackageManager
import android.os.Build
import android.system.Os
import android.system.OsConstants
import io.github.mimomobile.demo.app
import io.github.mimomobile.demo.statusBytes
import java.io.InputStream
import org.json.JSONArray
import org.json.JSONObject

/** Something that must be so on a device: [run] throws when it is not. */
class Check(val name: String, val run: () -> Unit)

/**
 * What must be so on every device, whatever its CPU, Android and page size. The app is left as it was found: the model,
 * the settings and the conversation that were the user's are back after [close].
 *
 * @param golden Opens a file of tests/golden.
 */
class DeviceChecks(private val instrumentation: Instrumentation, golden: (String) -> InputStream) : AutoCloseable {
    private val context = instrumentation.targetContext
    private val setup = Setup(instrumentation, context.app)

    /** What was measured on the way; complete after the last check. */
    val facts = JSONObject()

    /** Before all others: they need the bundled model. */
    val ready = Check("the_bundled_model_loads") { setup.begin() }

    val platform = listOf(
        Check("the_app_may_not_use_the_network", ::noNetwork),
        Check("pages_are_of_a_known_size", ::pages),
    )

    val engine = EngineChecks(setup, golden, facts).all

    val screen = ScreenChecks(instrumentation, setup, facts).all

    /** All in their order; memory last, so that it counts what the others took. */
    val all: List<Check> = listOf(ready) + platform + engine + screen + Check("memory_is_counted", ::memory)

    override fun close() = setup.end()

    private fun noNetwork() {
        val info = context.packageManager.getPackageInfo(context.packageName, PackageManager.GET_PERMISSIONS)
        val asked = info.requestedPermissions.orEmpty().toList()
        check(Manifest.permission.INTERNET !in asked) { "INTERNET is among $asked" }
        val granted = context.checkSelfPermission(Manifest.permission.INTERNET)
        check(granted == PackageManager.PERMISSION_DENIED) { "INTERNET is granted" }
    }

    private fun pages() {
        val bytes = Os.sysconf(OsConstants._SC_PAGESIZE)
        facts.put("page_size_bytes", bytes)
        facts.put("abis", JSONArray(Build.SUPPORTED_ABIS.toList()))
        facts.put("api", Build.VERSION.SDK_INT)
        facts.put("build", Build.FINGERPRINT)
        check(bytes == 4096L || bytes == 16384L) { "$bytes bytes" }
    }

    private fun memory() {
        val counted = listOf("VmRSS", "VmHWM", "RssAnon").associateWith(::statusBytes)
        facts.put("memory_bytes", JSONObject(counted))
        checkNotNull(counted["VmRSS"]) { "$counted" } // kernels before 4.5 do not count RssAnon
    }
}
