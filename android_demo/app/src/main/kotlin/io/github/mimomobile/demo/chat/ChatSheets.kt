package io.github.mimomobile.demo.chat

import android.app.Activity
import android.app.AlertDialog
import android.text.format.DateUtils
import android.view.View
import android.widget.TextView
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.VitalSigns
import io.github.mimomobile.demo.ui.Sheet

/** The panels of the chat screen: conversations, and details of the status line. */
class ChatSheets(private val activity: Activity, private val chat: ChatHolder) {
    enum class Kind { CONVERSATIONS, DETAILS }

    private var sheet: Sheet? = null
    private var rendered: Any? = null
    private var signs: VitalSigns? = null

    /** The one that is shown. */
    var opened: Kind? = null
        private set

    fun open(kind: Kind) {
        close()
        opened = kind
        rendered = null
        val title = if (kind == Kind.CONVERSATIONS) R.string.conversations else R.string.details
        sheet = Sheet(activity, title).apply {
            setOnDismissListener { if (sheet === this) opened = null }
            show()
        }
        render(chat.state.value, signs)
    }

    fun close() {
        val old = sheet
        sheet = null
        opened = null
        old?.dismiss()
    }

    fun render(state: ChatUiState, signs: VitalSigns?) {
        this.signs = signs
        val sheet = sheet ?: return
        // Not for each token: a screen reader would lose its place.
        val shown = if (opened == Kind.CONVERSATIONS) state.history else listOf(state.load, state.ended, signs)
        val wanted: Any = shown to state.conversation.id
        if (opened == null || wanted == rendered) return
        rendered = wanted
        sheet.clear()
        if (opened == Kind.CONVERSATIONS) conversations(sheet, state) else details(activity, sheet, state, signs)
    }

    private fun conversations(sheet: Sheet, state: ChatUiState) {
        val new = sheet.add(R.layout.item_new_chat)
        new.setOnClickListener {
            close()
            chat.new()
        }
        for (summary in state.history) {
            val row = sheet.add(R.layout.item_conversation)
            row.findViewById<TextView>(R.id.conversation_title).text = summary.title
            row.findViewById<TextView>(R.id.conversation_when).text = ago(summary.updatedAt)
            row.findViewById<View>(R.id.conversation).apply {
                isSelected = summary.id == state.conversation.id
                setOnClickListener {
                    close()
                    chat.open(summary.id)
                }
            }
            row.findViewById<View>(R.id.conversation_delete).apply {
                contentDescription = activity.getString(R.string.delete_named, summary.title)
                setOnClickListener { confirmDelete(summary) }
            }
        }
    }

    private fun ago(time: Long): CharSequence {
        val now = System.currentTimeMillis()
        if (now - time < DateUtils.MINUTE_IN_MILLIS) return activity.getString(R.string.just_now)
        return DateUtils.getRelativeTimeSpanString(time, now, DateUtils.MINUTE_IN_MILLIS)
    }

    private fun confirmDelete(summary: Summary) {
        AlertDialog.Builder(activity)
            .setTitle(R.string.delete_chat)
            .setMessage(summary.title)
            .setPositiveButton(R.string.delete) { _, _ -> chat.delete(summary.id) }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }
}
