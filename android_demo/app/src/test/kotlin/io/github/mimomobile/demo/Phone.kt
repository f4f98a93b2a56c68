package io.github.mimomobile.demo

import android.app.Activity
import android.app.ActivityManager
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.Canvas
import android.os.BatteryManager
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import java.io.File
import org.junit.Assert.assertTrue
import org.junit.rules.ExternalResource
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf

/** The screen that the tests run on: a current phone's. */
const val PHONE = "w411dp-h914dp-420dpi"
const val PHONE_AT_NIGHT = "w411dp-h914dp-night-420dpi"

/** Models answer and files are copied in real time, so that a busy computer needs patience. */
private const val PATIENCE_S = 60

val application: MimoApp get() = RuntimeEnvironment.getApplication() as MimoApp

/** What Robolectric's phone lacks: memory and a battery. */
class Hardware(private val availableBytes: Long = 4_000_000_000) : ExternalResource() {
    override fun before() {
        val memory = ActivityManager.MemoryInfo().apply {
            availMem = availableBytes
            totalMem = 12_000_000_000
        }
        shadowOf(application.getSystemService(ActivityManager::class.java)).setMemoryInfo(memory)
        val battery = Intent(Intent.ACTION_BATTERY_CHANGED)
            .putExtra(BatteryManager.EXTRA_TEMPERATURE, 312)
            .putExtra(BatteryManager.EXTRA_LEVEL, 81)
            .putExtra(BatteryManager.EXTRA_SCALE, 100)
        @Suppress("DEPRECATION")
        application.sendStickyBroadcast(battery)
    }
}

/** Runs what the main thread has to do until [condition] holds. */
fun await(what: String, condition: () -> Boolean) {
    val deadline = System.nanoTime() + PATIENCE_S * 1_000_000_000L
    while (true) {
        settle()
        if (condition()) return
        if (System.nanoTime() > deadline) {
            val states = listOf(application.models.state.value, application.chat.state.value)
            throw AssertionError("not within $PATIENCE_S s: $what\n${states.joinToString("\n")}")
        }
        Thread.sleep(10)
    }
}

/** Runs what the main thread has to do now; its clock goes on by a frame. */
fun settle() = shadowOf(Looper.getMainLooper()).idleFor(java.time.Duration.ofMillis(16))

/** All views in a view, itself included. */
fun View.all(): Sequence<View> = sequence {
    yield(this@all)
    if (this@all is ViewGroup) for (index in 0 until childCount) yieldAll(getChildAt(index).all())
}

/** What a screen reader calls a view. */
fun roleOf(view: View): String = view.createAccessibilityNodeInfo().className.toString()

/** All text that a view shows, a line each. */
fun View.shown(): String =
    all().filter { it.isShown && it is TextView }.joinToString("\n") { (it as TextView).text.toString() }

fun Activity.shown(): String = window.decorView.shown()

fun <T : View> Activity.view(id: Int): T =
    checkNotNull(findViewById<T>(id)) { "no view ${resources.getResourceEntryName(id)}" }

fun Activity.press(id: Int) = press(view<View>(id))

/** Presses a view as a finger would: not when it is hidden or disabled. */
fun press(view: View) {
    assertTrue("$view is not shown", view.isShown)
    assertTrue("$view is not enabled", view.isEnabled)
    assertTrue("$view does not listen", view.performClick())
    settle()
}

/**
 * Draws what an activity shows; saved as [name].png in the folder `mimo.screenshots`, when that is given.
 *
 * @return The picture, of which the caller may ask what is in it.
 */
fun screenshot(activity: Activity, name: String): Bitmap {
    settle()
    val view = activity.window.decorView
    val folder = System.getProperty("mimo.screenshots")
    if (folder != null) asOnPhone(view)
    val bitmap = Bitmap.createBitmap(view.width, view.height, Bitmap.Config.ARGB_8888)
    view.draw(Canvas(bitmap))
    if (folder != null) {
        File(folder).mkdirs()
        val half = Bitmap.createScaledBitmap(bitmap, view.width / 2, view.height / 2, true)
        File(folder, "$name.png").outputStream().use { half.compress(Bitmap.CompressFormat.PNG, 100, it) }
    }
    return bitmap
}

/** Folders by the names that they have on a phone: here they are temporary ones. */
private fun asOnPhone(view: View) {
    val name = application.packageName
    val folders = mapOf(
        application.getExternalFilesDir(null)!!.path to "/storage/emulated/0/Android/data/$name/files",
        application.dataDir.path to "/data/user/0/$name",
    )
    for (text in view.all().filterIsInstance<TextView>()) {
        for ((here, there) in folders) {
            if (here in text.text) text.text = text.text.toString().replace(here, there)
        }
    }
    settle()
}

/** How many different colors a picture has, at most [enough]: one that shows nothing has one. */
fun colors(bitmap: Bitmap, enough: Int = 50): Int {
    val found = HashSet<Int>()
    for (y in 0 until bitmap.height step 3) {
        for (x in 0 until bitmap.width step 3) if (found.size < enough) found += bitmap.getPixel(x, y)
    }
    return found.size
}
