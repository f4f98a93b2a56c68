package io.github.mimomobile.demo.models

import android.app.ActivityManager
import android.app.AlertDialog
import android.app.ApplicationExitInfo
import android.content.ComponentCallbacks2
import android.widget.EditText
import android.widget.Switch
import android.widget.TextView
import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.ModelSettings
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.Settings
import io.github.mimomobile.demo.SettingsStore
import io.github.mimomobile.demo.all
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.chat.AnswerState
import io.github.mimomobile.demo.chat.ChatActivity
import io.github.mimomobile.demo.press
import io.github.mimomobile.demo.settle
import io.github.mimomobile.demo.shown
import io.github.mimomobile.demo.view
import io.github.mimomobile.runtime.EngineConfig
import io.github.mimomobile.runtime.EngineState
import io.github.mimomobile.runtime.GenerationConfig
import io.github.mimomobile.runtime.MimoEngine
import io.github.mimomobile.runtime.Prompt
import java.io.File
import java.io.RandomAccessFile
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.job
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowActivityManager.ApplicationExitInfoBuilder
import org.robolectric.shadows.ShadowDialog

/** What is loaded at the start, with what context, and what is kept beside a model. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class LoadingTest {
    @get:Rule
    val hardware = Hardware()

    private val state get() = application.models.state.value

    @Test
    fun `after a load that ended the app nano is loaded, and the chat says which model failed, and why`() {
        val large = pushed("large")
        // What the process before left when Android ended it in the middle of the load.
        application.settings.modelPath = large.path
        application.settings.loading = large.path
        val manager = application.getSystemService(ActivityManager::class.java)
        val killed = ApplicationExitInfoBuilder.newBuilder().setReason(ApplicationExitInfo.REASON_LOW_MEMORY)
        shadowOf(manager).addApplicationExitInfo(killed.build())
        val chat = Robolectric.buildActivity(ChatActivity::class.java).setup().get()
        await("nano") { (state.load as? LoadState.Ready)?.path?.endsWith("/files/models/mimo-nano") == true }
        await("the card") { chat.getString(R.string.problem_crashed) in chat.shown() }
        assertTrue(chat.shown(), "mimo-nano" in state.crash!!.problem.detail)
        assertTrue(chat.shown(), chat.getString(R.string.crash_low_memory) in chat.shown())
        assertTrue(chat.shown(), chat.getString(R.string.advice_crashed) in chat.shown())
        assertEquals(large.path, state.crash!!.path)
        assertNull("the next start would be told again", application.settings.loading)
        application.models.load(large.path)
        await("the model that the user asks for") { (state.load as? LoadState.Ready)?.path == large.path }
        assertNull(state.crash)
    }

    @Test
    fun `a load that fails or ends well leaves no marker`() {
        val damaged = pushed("damaged")
        File(damaged, "mimo-nano-int4_b32-onnx/model.onnx.data").delete()
        start()
        assertNull(application.settings.loading)
        application.models.load(damaged.path)
        await("the error") { state.load is LoadState.Failed }
        assertNull(application.settings.loading)
    }

    @Test
    fun `a model that Android had unloaded comes back with the next message, or the answer says why it cannot`() {
        val chat = Robolectric.buildActivity(ChatActivity::class.java).setup().get()
        await("the model") { application.chat.state.value.canSend }
        unload(chat)
        ask(chat)
        assertEquals(AnswerState.LENGTH, application.chat.state.value.conversation.exchanges.last().answer.state)
        unload(chat)
        File(application.filesDir, "models/mimo-nano/mimo-nano-int4_b32-onnx/model.onnx").delete()
        ask(chat)
        val problem = application.chat.state.value.conversation.exchanges.last().answer.problem
        assertEquals(Problem.Kind.MODEL, problem?.kind)
    }

    private fun unload(chat: ChatActivity) {
        application.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_BACKGROUND)
        await("the memory") { application.engine.state.value == EngineState.Empty && state.load is LoadState.Unloaded }
        await("its word") { chat.getString(R.string.unloaded) in chat.shown() }
    }

    private fun ask(chat: ChatActivity) {
        val before = application.chat.state.value.ended
        application.settings.set(Settings(generation = GenerationConfig { maxTokens = 2 }))
        chat.view<EditText>(R.id.composer).setText("1 + 1?")
        settle()
        press(chat.view(R.id.send))
        await("the answer") { application.chat.state.value.ended > before }
    }

    /** As it does after an answer that ended because another model is loaded: its keys and values are saved then. */
    @Test
    fun `a load waits for what the engine begins just before it`() {
        val large = pushed("large")
        val scope = CoroutineScope(SupervisorJob() + Dispatchers.Default.limitedParallelism(1))
        val real = MimoEngine()
        var busy = false
        val engine = object : MimoEngine by real {
            override suspend fun load(model: File, config: EngineConfig) {
                if (busy) {
                    busy = false
                    val work = real.generate(Prompt.Text("1"), GenerationConfig { maxTokens = 50; ignoreEnd = true })
                    scope.launch { work.collect {} }
                    real.state.first { it is EngineState.Generating }
                }
                real.load(model, config)
            }
        }
        val models = ModelHolder(application, scope, engine, SettingsStore(application))
        try {
            models.start()
            await("nano") { models.state.value.run { load is LoadState.Ready && task == null } }
            busy = true
            models.load(large.path)
            await("the end of the load") { models.state.value.load.run { path == large.path && isDecided } }
            assertTrue("${models.state.value.load}", models.state.value.load is LoadState.Ready)
            assertFalse("the engine was idle", busy)
        } finally {
            runBlocking { scope.coroutineContext.job.cancelAndJoin() }
            real.close()
        }
    }

    @Test
    fun `when even nano ended the app nothing is loaded before the user asks`() {
        application.settings.loading = File(application.filesDir, "models/mimo-nano").path
        Robolectric.buildActivity(ModelsActivity::class.java).setup().get()
        await("the error") { state.load is LoadState.Failed && state.task == null }
        assertEquals(Problem.Kind.CRASHED, (state.load as LoadState.Failed).problem.kind)
        application.models.load(state.load.path!!)
        await("nano") { state.load is LoadState.Ready }
    }

    @Test
    fun `a context that was chosen for one model does not spoil another`() {
        val large = pushed("large")
        val models = start()
        val entry = state.models.single { it.path == large.path }
        application.models.choose(entry, ModelSettings(contextLength = 512))
        application.models.load(large.path)
        await("the short context") { ready(large.path)?.contextLength == 512 }
        val nano = state.models.single { it.origin == Origin.BUNDLED }
        application.models.load(nano.path)
        await("nano with its own") { ready(nano.path)?.contextLength == 2048 }
        assertTrue(models.shown(), "512" in models.shown())
    }

    @Test
    fun `a context longer than the model was trained for is refused where it is typed`() {
        val models = start()
        press(models.window.decorView.all().first { it.id == R.id.model_context && it.isShown })
        val dialog = ShadowDialog.getLatestDialog() as AlertDialog
        val field = dialog.findViewById<EditText>(R.id.context_length)
        field.setText("8192")
        dialog.getButton(AlertDialog.BUTTON_POSITIVE).performClick()
        settle()
        assertTrue(dialog.isShowing)
        assertNotNull(field.error)
        field.setText("1024")
        dialog.getButton(AlertDialog.BUTTON_POSITIVE).performClick()
        await("the model with that context") { ready(state.models.first().path)?.contextLength == 1024 }
        assertFalse(dialog.isShowing)
    }

    @Test
    fun `the context that nobody chose is the longest that fits`() {
        // MiMo-7B: 36 layers and the MTP layer, 8 heads of 128; its weights were measured.
        val shape = OnnxShape(trainedTokens = 32768, weightBytes = 5_000_000_000, tokenBytes = 4L * 37 * 8 * 128)
        assertEquals(148 * 1024, shape.tokenBytes)
        assertEquals(32768, shape.largestContext(16_000_000_000, int8 = false))
        val tokens = shape.largestContext(8_000_000_000, int8 = false)
        assertTrue("$tokens", tokens in 4096..8192)
        assertEquals(0, tokens % 256)
        assertTrue(6_000_000_000 + tokens * shape.tokenBytes < 8_000_000_000)
        assertEquals(2 * tokens.toDouble(), shape.largestContext(8_000_000_000, int8 = true).toDouble(), 256.0)
        assertEquals("the least, for the engine to say what is missing", 1024, shape.largestContext(3_000_000_000, false))
    }

    @Test
    fun `the sizes of a model are read from its folder, and no model is one without them`() {
        val folder = File(pushed("mine"), "mimo-nano-int4_b32-onnx")
        val shape = OnnxShape.read(folder)!!
        assertEquals(2048, shape.trainedTokens)
        assertEquals(4L * 5 * 2 * 64, shape.tokenBytes)
        assertFalse(shape.isWorthKeeping)
        File(folder, "config.json").writeText("""{"num_attention_heads": 0, "hidden_size": 64}""")
        assertNull(OnnxShape.read(folder))
        File(folder, "config.json").delete()
        assertNull(OnnxShape.read(folder))
    }

    @Test
    fun `weights are rearranged on the storage only when that is asked for, with the number on the switch`() {
        val large = pushed("large")
        RandomAccessFile(File(large, "mimo-nano-int4_b32-onnx/model.onnx.data"), "rw").use { it.setLength(5_000_000_000) }
        val models = start()
        await("its card") { models.window.decorView.all().count { it.id == R.id.model_arranged } == 2 }
        val switch = models.window.decorView.all().single { it.id == R.id.model_arranged && it.isShown } as Switch
        assertTrue(switch.text.toString(), "12.00 GB" in switch.text && "6.00 GB" in switch.text)
        assertFalse(switch.isChecked)
        switch.performClick()
        assertTrue(application.settings.values.value.of(large.path).keepsArranged)
    }

    @Test
    fun `what was rearranged goes with its model, however that was deleted, and with the switch`() {
        val large = pushed("large")
        val kept = ModelFolders(application).arranged(large.path)
        val models = start()
        application.models.choose(state.models.single { it.path == large.path }, ModelSettings(keepsArranged = true))
        File(kept, "entry").mkdirs()
        application.models.refresh()
        settle()
        Thread.sleep(100)
        assertTrue(kept.isDirectory)
        large.deleteRecursively() // as `adb shell rm` does
        application.models.refresh()
        await("it is gone") { !kept.exists() }
        assertTrue(models.window.decorView.all().filterIsInstance<TextView>().any())
    }

    private fun ready(path: String) = (state.load as? LoadState.Ready)?.takeIf { it.path == path }?.info

    private fun start(): ModelsActivity {
        val models = Robolectric.buildActivity(ModelsActivity::class.java).setup().get()
        await("the model") { state.load is LoadState.Ready && state.task == null && state.models.isNotEmpty() }
        return models
    }

    private fun nano() = File(checkNotNull(System.getProperty("mimo.model")) { "mimo.model is not set" })

    private fun pushed(name: String): File {
        val folder = File(application.getExternalFilesDir("models"), name)
        nano().copyRecursively(folder)
        folder.listFiles()!!.filter { it.name.endsWith(".gguf") }.forEach { it.delete() } // one engine alone
        return folder
    }
}
