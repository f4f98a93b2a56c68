package io.github.mimomobile.demo.ui

import android.content.ClipData
import android.content.ClipboardManager
import android.content.Context
import android.os.Build
import android.view.View
import android.widget.ProgressBar
import android.widget.TextView
import android.widget.Toast
import io.github.mimomobile.demo.R

/** Between facts on one line. */
const val SEPARATOR = " · "

/** Shown, or gone. */
var View.shown: Boolean
    get() = visibility == View.VISIBLE
    set(value) {
        val wanted = if (value) View.VISIBLE else View.GONE
        if (visibility != wanted) visibility = wanted
    }

/** Sets a text only when it differs: the same one would lay out the screen anew and end a selection. */
fun TextView.show(text: CharSequence?) {
    if (this.text.toString() != text.toString()) this.text = text
    shown = !text.isNullOrEmpty()
}

fun Context.dp(value: Int): Int = (value * resources.displayMetrics.density + 0.5f).toInt()

fun Context.copyText(text: String) {
    val clips = getSystemService(ClipboardManager::class.java)
    clips.setPrimaryClip(ClipData.newPlainText(getString(R.string.app_name), text))
    // From Android 13 on the system shows what was copied.
    if (Build.VERSION.SDK_INT < Build.VERSION_CODES.TIRAMISU) {
        Toast.makeText(this, R.string.copied, Toast.LENGTH_SHORT).show()
    }
}

/** GB as 1e9, MB as 1e6. */
fun Context.bytes(count: Long): String = when {
    count >= 1_000_000_000 -> getString(R.string.gigabytes, count / 1e9)
    count >= 1_000_000 -> getString(R.string.megabytes, count / 1e6)
    else -> getString(R.string.kilobytes, count / 1e3)
}

/** Milliseconds below a second. */
fun Context.seconds(value: Double): String =
    if (value < 1) getString(R.string.milliseconds, value * 1000) else getString(R.string.seconds, value)

/** Tokens a second; null where there are none: a single token has no time between two. */
fun Context.speed(tps: Double?): String? = tps?.takeIf { it > 0 && it.isFinite() }?.let { getString(R.string.tps, it) }

/** A part of the whole; without end where that is unknown. */
fun ProgressBar.show(fraction: Float?) {
    isIndeterminate = fraction == null
    if (fraction != null) progress = (fraction * max).toInt()
}
