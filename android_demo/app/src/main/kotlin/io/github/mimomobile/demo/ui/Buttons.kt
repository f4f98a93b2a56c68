package io.github.mimomobile.demo.ui

import android.content.Context
import android.util.AttributeSet
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView

/** A text that does something when it is pressed; screen readers call it a button. */
class TextButton(context: Context, attributes: AttributeSet?) : TextView(context, attributes) {
    override fun getAccessibilityClassName(): CharSequence = BUTTON
}

/** The same with more than one text in it. */
class RowButton(context: Context, attributes: AttributeSet?) : LinearLayout(context, attributes) {
    override fun getAccessibilityClassName(): CharSequence = BUTTON
}

private val BUTTON: String = Button::class.java.name
