package io.github.mimomobile.demo.test

import android.app.Activity
import android.app.Instrumentation
import android.content.Intent
import android.content.pm.ActivityInfo
import android.content.res.Configuration
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import android.widget.TextView
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.chat.Answer
import io.github.mimomobile.demo.chat.AnswerState
import io.github.mimomobile.demo.chat.ChatActivity
import io.github.mimomobile.demo.chat.statsToJson
import io.github.mimomobile.demo.models.LoadState
import java.io.File
import java.io.RandomAccessFile
import org.json.JSONObject

/** The chat screen, used as by a finger: what is typed, pressed and read is in its views. */
internal class ScreenChecks(
    private val instrumentation: Instrumentation,
    private val setup: Setup,
    private val facts: JSONObject,
) {
    private val app = setup.app

    val all = listOf(
        Check("a_question_is_answered", ::answer),
        Check("an_answer_can_be_stopped", ::stop),
        Check("rotation_keeps_the_conversation", ::rotation),
        Check("a_damaged_model_is_refused_on_the_screen", ::damaged),
    )

    private fun answer() = withChat { chat ->
        val found = ask(chat, QUESTION)
        check(found.text == RESULT) { "the answer is '${found.text}', '$RESULT' expected" }
        instrumentation.await("'$RESULT' on the screen") { chat.takeIf { RESULT in answers(it) } }
        facts.put("chat", statsToJson(checkNotNull(found.stats)))
    }

    private fun stop() = withChat { chat ->
        type(chat, ENDLESS)
        press(chat, R.id.send)
        val stopped = instrumentation.await("the end of a long answer") {
            val button = chat.findViewById<View>(R.id.stop)
            last()?.takeIf { !app.chat.state.value.generating }.also {
                if (it == null && button.isShown && (last()?.tokens ?: 0) > 0) button.performClick()
            }
        }
        check(stopped.state == AnswerState.STOPPED) { "the answer is ${stopped.state}" }
        check((stopped.thinking + stopped.text).isNotEmpty()) { "nothing is left of the stopped answer" }
        setup.newConversation()
        val next = ask(chat, QUESTION)
        check(next.text == RESULT) { "the next answer is '${next.text}', '$RESULT' expected" }
    }

    private fun rotation() = withChat { chat ->
        ask(chat, QUESTION)
        type(chat, DRAFT)
        val id = app.chat.state.value.conversation.id
        val upright = instrumentation.onMain { portrait(chat) }
        val monitor = instrumentation.addMonitor(ChatActivity::class.java.name, null, false)
        try {
            instrumentation.onMain { chat.requestedOrientation = if (upright) LANDSCAPE else PORTRAIT }
            val rotated = instrumentation.await("the rotated screen") {
                monitor.lastActivity?.takeIf { portrait(it) != upright && RESULT in answers(it) }
            }
            check(app.chat.state.value.conversation.id == id) { "another conversation is open" }
            val draft = instrumentation.onMain { rotated.findViewById<EditText>(R.id.composer).text.toString() }
            check(draft == DRAFT) { "the composer has '$draft'" }
            instrumentation.onMain { rotated.finish() }
        } finally {
            instrumentation.removeMonitor(monitor)
        }
    }

    private fun damaged() = withChat { chat ->
        val copy = File(setup.nano.parentFile, "damaged-by-a-test")
        try {
            setup.nano.copyRecursively(copy, overwrite = true)
            val file = copy.walk().filter { it.isFile }.maxBy { it.length() }
            RandomAccessFile(file, "rw").use { data ->
                data.seek(file.length() / 2)
                val byte = data.read()
                data.seek(file.length() / 2)
                data.write(byte xor 1)
            }
            app.models.load(copy.path)
            instrumentation.await("the damaged model refused") { app.models.state.value.load as? LoadState.Failed }
            instrumentation.await("${file.name} named on the screen") {
                chat.takeIf { texts(it.findViewById(R.id.load_problem)).any { text -> file.name in text } }
            }
        } finally {
            copy.deleteRecursively()
            app.models.refresh()
            setup.load(setup.nano)
        }
    }

    private fun withChat(act: (ChatActivity) -> Unit) {
        setup.newConversation()
        val intent = Intent(app, ChatActivity::class.java).addFlags(Intent.FLAG_ACTIVITY_NEW_TASK)
        val chat = instrumentation.startActivitySync(intent) as ChatActivity
        try {
            act(chat)
        } finally {
            instrumentation.onMain { chat.finish() }
        }
    }

    private fun ask(chat: ChatActivity, question: String): Answer {
        type(chat, question)
        press(chat, R.id.send)
        val answer = instrumentation.await("the whole answer") { last()?.takeIf { !app.chat.state.value.generating } }
        check(answer.state == AnswerState.DONE) { "the answer is ${answer.state}: ${answer.problem}" }
        return answer
    }

    private fun type(chat: Activity, text: String) =
        instrumentation.onMain { chat.findViewById<EditText>(R.id.composer).setText(text) }

    /** Presses a button as soon as one can. */
    private fun press(chat: Activity, id: Int) {
        val name = app.resources.getResourceEntryName(id)
        instrumentation.await("$name to be pressed") {
            chat.findViewById<View>(id).takeIf { it.isShown && it.isEnabled }?.performClick()
        }
    }

    private fun last(): Answer? = app.chat.state.value.conversation.exchanges.lastOrNull()?.answer

    /** Each answer on the screen. */
    private fun answers(screen: Activity): List<String> {
        val messages = screen.findViewById<ViewGroup>(R.id.messages)
        val views = (0 until messages.childCount).map { messages.getChildAt(it).findViewById<View>(R.id.answer) }
        return views.map { texts(it).joinToString("\n") }
    }

    private fun texts(view: View): List<String> = when {
        !view.isShown -> emptyList()
        view is TextView -> listOf(view.text.toString())
        view is ViewGroup -> (0 until view.childCount).flatMap { texts(view.getChildAt(it)) }
        else -> emptyList()
    }

    private fun portrait(screen: Activity) =
        screen.resources.configuration.orientation == Configuration.ORIENTATION_PORTRAIT

    private companion object {
        const val QUESTION = "What is 25 + 17 * 3?"
        const val RESULT = "76"
        const val DRAFT = "not sent yet"
        const val LANDSCAPE = ActivityInfo.SCREEN_ORIENTATION_LANDSCAPE
        const val PORTRAIT = ActivityInfo.SCREEN_ORIENTATION_PORTRAIT

        /** MiMo-nano answers it until the context is full. */
        val ENDLESS = "Why is the sky blue, said 12 people ".repeat(30)
    }
}
