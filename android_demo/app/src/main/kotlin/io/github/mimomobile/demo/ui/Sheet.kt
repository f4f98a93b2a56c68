package io.github.mimomobile.demo.ui

import android.app.Dialog
import android.content.Context
import android.view.Gravity
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.view.WindowManager
import android.widget.LinearLayout
import android.widget.TextView
import io.github.mimomobile.demo.R

/** A panel that comes from the bottom of the screen. */
class Sheet(context: Context, title: Int) : Dialog(context, R.style.Theme_Mimo_Sheet) {
    private val content: LinearLayout

    init {
        setContentView(R.layout.sheet)
        findViewById<TextView>(R.id.sheet_title).setText(title)
        content = findViewById(R.id.sheet_content)
        window?.apply {
            setTitle(context.getString(title))
            setGravity(Gravity.BOTTOM)
            setLayout(minOf(context.dp(MAX_WIDTH_DP), context.resources.displayMetrics.widthPixels), WRAP)
            addFlags(WindowManager.LayoutParams.FLAG_DIM_BEHIND)
            setDimAmount(DIM)
        }
    }

    fun clear() = content.removeAllViews()

    /** Adds a view of a layout and returns it. */
    fun add(layout: Int): View = LayoutInflater.from(context).inflate(layout, content, false).also(content::addView)

    fun heading(text: Int) {
        val view = TextView(context, null, 0, R.style.Text_Section)
        view.setText(text)
        view.setPadding(context.dp(16), context.dp(16), context.dp(16), context.dp(4))
        view.markHeading()
        content.addView(view)
    }

    /** Adds a name and a value; nothing for no value. */
    fun fact(name: Int, value: CharSequence?) {
        if (value.isNullOrEmpty()) return
        val row = add(R.layout.item_fact)
        row.findViewById<TextView>(R.id.fact_name).setText(name)
        row.findViewById<TextView>(R.id.fact_value).text = value
    }

    private companion object {
        const val WRAP = ViewGroup.LayoutParams.WRAP_CONTENT
        const val MAX_WIDTH_DP = 640
        const val DIM = 0.4f
    }
}

/** For screen readers, which jump from heading to heading; Android has it since 9. */
fun View.markHeading() {
    if (android.os.Build.VERSION.SDK_INT >= android.os.Build.VERSION_CODES.P) isAccessibilityHeading = true
}
