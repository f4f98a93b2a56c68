package io.github.mimomobile.demo.chat

import android.content.ClipboardManager
import android.content.Context
import android.os.Bundle
import android.os.PowerManager
import android.view.View
import android.widget.EditText
import android.widget.TextView
import io.github.mimomobile.demo.GenerationService
import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.PHONE_AT_NIGHT
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.all
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.colors
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.press
import io.github.mimomobile.demo.roleOf
import io.github.mimomobile.demo.screenshot
import io.github.mimomobile.demo.settle
import io.github.mimomobile.demo.shown
import io.github.mimomobile.demo.view
import io.github.mimomobile.runtime.GenerationConfig
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowDialog
import org.robolectric.shadows.ShadowPowerManager

/** The real chat screen on the real engine and MiMo-nano, as a fresh install has them. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class ChatScreenTest {
    @get:Rule
    val hardware = Hardware()

    private val holder get() = application.chat
    private val state get() = holder.state.value
    private val answer get() = state.conversation.exchanges.last().answer

    @Test
    fun `a fresh install answers`() {
        val chat = start()
        assertTrue(chat.shown(), "mimo-nano" in chat.shown())
        answered(chat, SUM)
        assertEquals(AnswerState.DONE, answer.state)
        assertEquals("76", answer.text)
        assertTrue("$SUM is not shown", SUM in chat.shown())
        assertEquals("76", last<TextView>(chat, R.id.answer).text.toString())
        assertTrue("no speed in ${chat.view<TextView>(R.id.status).text}", chat.view<View>(R.id.status).shown().any(Char::isDigit))
    }

    @Test
    fun `what comes is seen as it comes`() {
        val chat = start()
        ramble(chat)
        val seen = LinkedHashSet<String>()
        await("more of it") {
            seen += last<TextView>(chat, R.id.answer).text.toString()
            seen.size > 3
        }
        assertTrue(state.generating)
        press(chat.view(R.id.stop))
        await("the end") { !state.generating }
    }

    @Test
    fun `thinking is folded, with a count, and unfolds`() {
        val chat = start()
        answered(chat, SUM)
        val toggle = last<TextView>(chat, R.id.thinking_toggle)
        assertTrue("${toggle.text}", answer.thinkingTokens.toString() in toggle.text)
        assertFalse(last<View>(chat, R.id.thinking).isShown)
        press(toggle)
        assertTrue("17*3" in last<View>(chat, R.id.thinking).shown())
    }

    @Test
    fun `stop ends the answer and keeps what came`() {
        val chat = start()
        ramble(chat)
        press(chat.view(R.id.stop))
        await("the end") { !state.generating }
        assertEquals(AnswerState.STOPPED, answer.state)
        assertTrue(answer.tokens > 4)
        assertTrue(chat.view<View>(R.id.composer).isEnabled)
    }

    @Test
    fun `regenerate answers the same question again`() {
        val chat = start()
        answered(chat, SUM)
        press(last<View>(chat, R.id.regenerate))
        await("another answer") { state.ended == 2 }
        assertEquals(1, state.conversation.exchanges.size)
        assertEquals("76", answer.text)
    }

    @Test
    fun `an answer that was cut goes on where it was, in its thinking and in its text`() {
        val chat = start()
        answered(chat, SUM)
        val whole = answer
        holder.new()
        await("an empty conversation") { state.conversation.exchanges.isEmpty() }
        application.settings.set(Settings(generation = GREEDY.generation.copy { maxTokens = 5 }))
        answered(chat, SUM)
        assertEquals(AnswerState.LENGTH, answer.state)
        assertTrue(answer.text, answer.text.isEmpty())
        makeGreedy()
        val before = state.ended
        press(last(chat, R.id.go_on))
        await("the rest") { state.ended > before }
        assertEquals(AnswerState.DONE, answer.state)
        assertEquals(whole.thinking to whole.text, answer.thinking to answer.text)
        assertEquals(whole.thinkingTokens, answer.thinkingTokens)
        assertEquals(1, state.conversation.exchanges.size)
        assertFalse(last<View>(chat, R.id.go_on).isShown)
    }

    @Test
    fun `copy puts the answer on the clipboard`() {
        val chat = start()
        answered(chat, SUM)
        press(last<View>(chat, R.id.copy))
        val clipboard = application.getSystemService(Context.CLIPBOARD_SERVICE) as ClipboardManager
        assertEquals("76", clipboard.primaryClip!!.getItemAt(0).text.toString())
    }

    @Test
    fun `rotation keeps the answer under way and the text that was typed`() {
        val controller = started()
        ramble(controller.get())
        controller.get().view<EditText>(R.id.composer).setText("And then?")
        val before = answer.tokens
        RuntimeEnvironment.setQualifiers("+land")
        val portrait = controller.get()
        controller.recreate()
        assertTrue("the activity was not made anew", controller.get() !== portrait)
        val chat = controller.get()
        await("the question on the new screen") { SUM in chat.shown() }
        assertEquals("And then?", chat.view<EditText>(R.id.composer).text.toString())
        await("the answer to go on") { answer.tokens > before }
        await("the end, on the new screen") {
            if (state.generating) chat.view<View>(R.id.stop).run { if (isShown) performClick() }
            !state.generating && answer.text == last<TextView>(chat, R.id.answer).text.toString()
        }
    }

    @Test
    fun `what an ended process was answering is there again, as interrupted`() {
        val half = Answer(thinking = "17*3:7*3+0=21", thinkingTokens = 12, tokens = 12, state = AnswerState.STREAMING)
        val saved = application.chats.create().copy(exchanges = listOf(Exchange(SUM, half)))
        application.chats.save(saved)
        application.settings.conversation = saved.id
        val controller = Robolectric.buildActivity(ChatActivity::class.java)
        controller.create(Bundle()).start().postCreate(null).resume().visible()
        val chat = controller.get()
        await("the model") { state.load is LoadState.Ready }
        assertEquals(AnswerState.INTERRUPTED, answer.state)
        assertTrue(chat.shown(), SUM in chat.shown())
        assertTrue(last<View>(chat, R.id.note).isShown)
        makeGreedy()
        press(last<View>(chat, R.id.regenerate))
        await("the answer") { state.ended > 0 }
        assertEquals("76", answer.text)
    }

    @Test
    fun `a conversation is on disk when it ends and opens again`() {
        val chat = start()
        answered(chat, SUM)
        val first = state.conversation
        press(chat.view(R.id.new_chat))
        await("an empty conversation") { state.conversation.exchanges.isEmpty() }
        await("the first in the list") { state.history.any { it.id == first.id } }
        holder.open(first.id)
        await("the first") { state.conversation.id == first.id }
        await("its answer on the screen") { chat.view<View>(R.id.messages).all().any { it.id == R.id.answer } }
        assertEquals("76", last<TextView>(chat, R.id.answer).text.toString())
        holder.delete(first.id)
        await("it is gone") { state.history.none { it.id == first.id } && state.conversation.id != first.id }
    }

    @Test
    fun `details tell what the answer took, and what computes`() {
        val chat = start()
        answered(chat, SUM)
        press(chat.view(R.id.status))
        val sheet = ShadowDialog.getLatestDialog()
        assertTrue(sheet.isShowing)
        val shown = sheet.window!!.decorView.all().filterIsInstance<TextView>().joinToString("\n") { it.text }
        assertTrue(shown, "int4_b32" in shown && "CPU" in shown && "31" in shown && "${answer.stats!!.promptTokens}" in shown)
    }

    @Test
    fun `an int8 cache takes half the memory, and answers`() {
        val chat = start()
        val bytes = (state.load as LoadState.Ready).info.kvCacheBytes
        application.settings.set(GREEDY.copy(int8Kv = true))
        await("the model with the other cache") {
            (state.load as? LoadState.Ready)?.info?.kvCacheBytes == bytes / 2 && state.canSend
        }
        answered(chat, SUM)
        assertEquals("76", answer.text)
    }

    @Test
    fun `a service holds the process while an answer comes, and its button stops it`() {
        val chat = start()
        ramble(chat)
        val started = generateSequence { shadowOf(application).nextStartedService }.toList()
        assertTrue("$started", started.any { it.component?.className == GenerationService::class.java.name })
        val service = Robolectric.buildService(GenerationService::class.java, started.last()).create().startCommand(0, 1)
        val notification = shadowOf(service.get()).lastForegroundNotification
        assertEquals(1, notification.actions.size)
        val stop = shadowOf(notification.actions[0].actionIntent).savedIntent
        service.get().onStartCommand(stop, 0, 2)
        await("the end") { !state.generating }
        assertEquals(AnswerState.STOPPED, answer.state)
        await("the service has ended itself") { shadowOf(service.get()).isStoppedBySelf }
    }

    @Test
    fun `the CPU is kept awake while an answer comes, and only then`() {
        val chat = start()
        assertFalse("awake for nothing", ShadowPowerManager.getLatestWakeLock()?.isHeld == true)
        ramble(chat)
        await("the lock") { ShadowPowerManager.getLatestWakeLock()?.isHeld == true }
        press(chat.view(R.id.stop))
        await("the end of it") { ShadowPowerManager.getLatestWakeLock()?.isHeld == false }
    }

    @Test
    fun `a screen reader is told of an answer once, and of none after another conversation was opened`() {
        val chat = start()
        val announcement = chat.view<TextView>(R.id.announcement)
        answered(chat, SUM)
        await("the announcement") { "76" in announcement.text }
        press(chat.view(R.id.new_chat))
        await("an empty conversation") { state.conversation.exchanges.isEmpty() }
        settle()
        assertEquals("", announcement.text.toString())
        val first = state.history.single().id
        ramble(chat) // and a conversation is opened while its answer comes
        holder.open(first)
        await("the first") { state.conversation.id == first && !state.generating }
        settle()
        assertEquals("", announcement.text.toString())
    }

    @Test
    fun `the meter tells how much of the context is used`() {
        val chat = start()
        answered(chat, SUM)
        await("a count") { state.usedTokens != null }
        assertTrue(chat.view<View>(R.id.context_meter).contentDescription.contains("${state.usedTokens}"))
    }

    @Test
    fun `an error is a card that says what to do`() {
        val chat = start()
        ask(chat, "1 + 1 ".repeat(3000))
        await("the error") { state.ended > 0 }
        assertEquals(AnswerState.FAILED, answer.state)
        val card = last<View>(chat, R.id.problem)
        assertTrue(card.isShown)
        assertTrue(card.shown(), chat.getString(answer.problem!!.kind.advice) in card.shown())
    }

    @Test
    fun `a model that computes no numbers gives no text, and a card that says what to try`() {
        val chat = start()
        val data = File(application.filesDir, "models").walk().single { it.name == "model.onnx.data" }
        val (size, time) = data.length() to data.lastModified()
        data.delete() // the loaded model may still read it
        data.writeBytes(ByteArray(size.toInt()) { -1 }) // NaN wherever floats are read
        data.setLastModified(time) // else it would be verified again, and refused
        val before = application.models.state.value.load
        application.models.reload()
        await("the model") { state.load.let { it is LoadState.Ready && it !== before } && state.canSend }
        answered(chat, SUM)
        assertEquals(AnswerState.FAILED, answer.state)
        assertEquals("", answer.thinking + answer.text)
        assertEquals(Problem.Kind.NUMERICS, answer.problem!!.kind)
        assertTrue("${answer.problem}", "mimo-nano in int4_b32 on CPU gave NaN or infinity" in answer.problem!!.detail)
        val card = last<View>(chat, R.id.problem).shown()
        assertTrue(card, chat.getString(R.string.advice_numerics) in card)
    }

    @Test
    fun `everything that can be pressed is large enough and has a name for TalkBack`() {
        val chat = start()
        answered(chat, SUM)
        val least = (48 * chat.resources.displayMetrics.density).toInt()
        val pressed = chat.window.decorView.all().filter { it.isShown && it.isClickable && it !is EditText }.toList()
        assertTrue("${pressed.size}", pressed.size >= 5)
        for (view in pressed) {
            val name = view.contentDescription ?: (view as? TextView)?.text ?: view.shown()
            assertTrue("$view has no name", name.isNotBlank())
            assertTrue("$view has the role ${roleOf(view)}", roleOf(view).endsWith("Button"))
            assertTrue("$view is ${view.width} × ${view.height}", view.height >= least || view.touchDelegate != null)
        }
    }

    @Test
    fun `pictures of it, light`() = pictures("light")

    @Test
    @Config(sdk = [34], qualifiers = PHONE_AT_NIGHT)
    fun `pictures of it, dark`() = pictures("dark")

    @Test
    @Config(sdk = [34], qualifiers = "zh-$PHONE")
    fun `pictures of it, in Chinese`() {
        val chat = start()
        assertTrue(chat.shown(), chat.shown().any { it in '一'..'鿿' })
        assertTrue(colors(screenshot(chat, "android-chat-zh")) > 20)
    }

    private fun pictures(theme: String) {
        val chat = start()
        assertTrue(colors(screenshot(chat, "android-start-$theme")) > 20)
        answered(chat, SUM)
        answered(chat, "Solve 7x + 12 = 3x + 52.")
        press(last<View>(chat, R.id.thinking_toggle))
        assertTrue(colors(screenshot(chat, "android-chat-$theme")) > 20)
    }

    private fun started(): ActivityController<ChatActivity> {
        makeGreedy()
        val controller = Robolectric.buildActivity(ChatActivity::class.java).setup()
        await("the model") { state.load is LoadState.Ready && !state.busy }
        return controller
    }

    private fun start(): ChatActivity = started().get()

    private fun makeGreedy() = application.settings.set(GREEDY)

    private fun ask(chat: ChatActivity, question: String) {
        chat.view<EditText>(R.id.composer).setText(question)
        settle()
        press(chat.view(R.id.send))
    }

    /** A hot phone draws almost evenly from all tokens; the one that ends the answer comes late with this seed. */
    private fun ramble(chat: ChatActivity) {
        val even = GenerationConfig { temperature = 100.0; topP = 1.0; seed = 16; speculate = false }
        application.settings.set(Settings(generation = even))
        val power = application.getSystemService(PowerManager::class.java)
        shadowOf(power).setCurrentThermalStatus(PowerManager.THERMAL_STATUS_CRITICAL)
        ask(chat, SUM)
        await("some tokens") { (state.conversation.exchanges.lastOrNull()?.answer?.tokens ?: 0) > 4 }
        assertTrue(state.generating)
    }

    private fun answered(chat: ChatActivity, question: String) {
        val before = state.ended
        ask(chat, question)
        await("an answer to $question") { state.ended > before }
    }

    private fun <T : View> last(chat: ChatActivity, id: Int): T {
        settle()
        @Suppress("UNCHECKED_CAST")
        return chat.view<View>(R.id.messages).all().last { it.id == id } as T
    }

    private companion object {
        val GREEDY = Settings(generation = GenerationConfig { temperature = 0.0 })
        const val SUM = "What is 25 + 17 * 3?"
    }
}
