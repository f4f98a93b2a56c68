package io.github.mimomobile.demo.models

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.PHONE_AT_NIGHT
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.all
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.colors
import io.github.mimomobile.demo.press
import io.github.mimomobile.demo.roleOf
import io.github.mimomobile.demo.screenshot
import io.github.mimomobile.demo.settle
import io.github.mimomobile.demo.shown
import io.github.mimomobile.runtime.ModelManifest
import java.io.File
import java.io.IOException
import kotlinx.coroutines.runBlocking
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowDialog

/** The real model screen: what a fresh install has, and folders from the file picker. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class ModelsScreenTest {
    @get:Rule
    val hardware = Hardware()

    @get:Rule
    val temporary = TemporaryFolder()

    private val state get() = application.models.state.value
    private val own get() = File(application.filesDir, "models")

    @Test
    fun `a fresh install has MiMo-nano, loaded`() {
        val models = start()
        assertEquals(listOf(Origin.BUNDLED), state.models.map { it.origin })
        assertTrue(models.shown(), "mimo-nano" in models.shown() && "int4_b32" in models.shown())
    }

    @Test
    fun `a picked folder is copied, verified and loaded`() {
        val models = start()
        val folder = copyOfNano()
        pick(models, folder)
        val name = "mimo-nano-int4_b32"
        await("the import") { state.task == null && (state.load as? LoadState.Ready)?.path?.endsWith(name) == true }
        assertNull(state.problem)
        assertEquals(File(folder, PART).readBytes().size, File(own, "$name/$PART").readBytes().size)
        assertTrue("the source is gone", File(folder, PART).exists())
        assertFalse("other files were copied", File(own, "$name/mimo-nano-q4_0.gguf").exists())
    }

    @Test
    fun `moving deletes each source once its copy is whole`() {
        val models = start()
        val folder = copyOfNano()
        application.models.import(FolderProvider.tree(folder), move = true, RECIPE)
        await("the import") { state.task == null && (state.load as? LoadState.Ready)?.path?.endsWith("b32") == true }
        assertFalse(File(folder, PART).exists())
        assertTrue(models.shown().isNotEmpty())
    }

    @Test
    fun `a provider that deletes nothing ends no move, and no app`() {
        start()
        val folder = copyOfNano()
        FolderProvider.keepsAll = true
        try {
            application.models.import(FolderProvider.tree(folder), move = true, RECIPE)
            await("the import") { state.task == null && (state.load as? LoadState.Ready)?.path?.endsWith("b32") == true }
        } finally {
            FolderProvider.keepsAll = false
        }
        assertNull(state.problem)
        assertTrue(File(folder, PART).exists())
    }

    @Test
    fun `a move that breaks off keeps what was moved, and goes on`() = runBlocking {
        val folder = copyOfNano()
        val manifest = ModelManifest.parse(File(folder, ModelManifest.NAME).readText(), RECIPE)
        val target = File(temporary.newFolder(), "moved")
        val last = manifest.files.last().path
        val torn = Folder(folder) { if (it == last) throw IOException("the stick was pulled out") }
        assertThrows(IOException::class.java) {
            runBlocking { ModelCopy(torn, target, move = true).run(manifest) { _, _ -> } }
        }
        assertEquals(listOf(last), manifest.files.map { it.path }.filter { File(folder, it).exists() })
        assertTrue(isMoving(File(target.path + PARTIAL)))
        ModelCopy(Folder(folder), target, move = true).run(manifest) { _, _ -> }
        verifyModel(target, manifest) { _, _ -> }
        assertEquals(manifest.text, File(target, ModelManifest.NAME).readText())
        assertFalse(isMoving(target) || File(target.path + PARTIAL).exists())
        assertFalse(File(folder, ModelManifest.NAME).exists())
    }

    @Test
    fun `a whole model that cannot take its name stays where it is`() = runBlocking {
        val folder = copyOfNano()
        val manifest = ModelManifest.parse(File(folder, ModelManifest.NAME).readText(), RECIPE)
        val target = File(temporary.newFolder(), "moved")
        val source = Folder(folder) { if (it == manifest.files.last().path) File(target, "x").mkdirs() }
        assertThrows(IOException::class.java) {
            runBlocking { ModelCopy(source, target, move = true).run(manifest) { _, _ -> } }
        }
        verifyModel(File(target.path + PARTIAL), manifest) { _, _ -> }
    }

    /** A folder of this computer; [before] each file is opened. */
    private class Folder(private val root: File, private val before: (String) -> Unit = {}) : ModelSource {
        override fun open(path: String) = before(path).let { File(root, path).inputStream() }

        override fun delete(path: String) = File(root, path).delete()
    }

    @Test
    fun `a corrupted model is refused, with its file and what to do, and nothing stays`() {
        val models = start()
        val folder = copyOfNano()
        File(folder, PART).let { file ->
            val bytes = file.readBytes()
            bytes[bytes.size / 2] = (bytes[bytes.size / 2] + 1).toByte()
            file.writeBytes(bytes)
        }
        pick(models, folder)
        await("the error") { state.problem != null }
        assertEquals(Problem.Kind.DAMAGED, state.problem!!.kind)
        await("the card") { "model.onnx.data" in models.shown() }
        assertTrue(models.shown(), models.getString(R.string.advice_damaged) in models.shown())
        screenshot(models, "android-models-damaged")
        assertEquals(listOf("mimo-nano"), own.list()!!.toList())
        assertTrue(state.load is LoadState.Ready)
    }

    @Test
    fun `a file that was cut off is refused`() {
        val models = start()
        val folder = copyOfNano()
        File(folder, PART).let { file -> file.writeBytes(file.readBytes().copyOf(1000)) }
        pick(models, folder)
        await("the error") { state.problem != null }
        assertTrue(state.problem!!.detail, "1000 bytes" in state.problem!!.detail)
        assertEquals(listOf("mimo-nano"), own.list()!!.toList())
    }

    @Test
    fun `a folder without a model says what is expected`() {
        val models = start()
        pick(models, temporary.newFolder("empty"))
        await("the error") { state.problem != null }
        assertTrue(state.problem!!.detail, "manifest.json" in state.problem!!.detail)
        assertTrue(state.load is LoadState.Ready)
    }

    @Test
    fun `a folder that adb pushed is loaded where it is`() {
        val pushed = File(application.getExternalFilesDir("models"), "mine")
        copyOfNano().copyRecursively(pushed)
        pushed.listFiles()!!.filter { it.name.endsWith(".gguf") }.forEach { it.delete() } // the other engine's
        start()
        val entry = state.models.single { it.origin == Origin.PUSHED }
        application.models.load(entry.path)
        await("the model") { (state.load as? LoadState.Ready)?.path == entry.path }
        assertFalse(File(own, "mimo-nano-int4_b32").exists())
    }

    @Test
    fun `verifying finds a byte that changed since`() {
        val pushed = File(application.getExternalFilesDir("models"), "mine")
        copyOfNano().copyRecursively(pushed)
        pushed.listFiles()!!.filter { it.name.endsWith(".gguf") }.forEach { it.delete() } // the other engine's
        start()
        val entry = state.models.single { it.origin == Origin.PUSHED }
        application.models.verify(entry)
        await("the check") { state.verified != null }
        File(pushed, PART).appendBytes(ByteArray(1))
        application.models.verify(entry)
        await("the check") { state.problem != null }
        assertEquals(Problem.Kind.DAMAGED, state.problem!!.kind)
    }

    @Test
    fun `a deleted model is gone, and nano is loaded in its place`() {
        start()
        application.models.import(FolderProvider.tree(copyOfNano()), move = false, RECIPE)
        await("the import") { state.task == null && (state.load as? LoadState.Ready)?.path?.endsWith("b32") == true }
        application.models.delete(state.models.single { it.origin == Origin.IMPORTED })
        await("nano") { (state.load as? LoadState.Ready)?.path?.endsWith("mimo-nano") == true }
        assertEquals(listOf("mimo-nano"), own.list()!!.toList())
    }

    @Test
    fun `everything that can be pressed has the role of a button for TalkBack`() {
        val models = start()
        val pressed = models.window.decorView.all().filter { it.isShown && it.isClickable }.toList()
        assertTrue("${pressed.size}", pressed.size >= 5)
        for (view in pressed) {
            assertTrue("$view: ${roleOf(view)}", roleOf(view).endsWith("Button") || roleOf(view).endsWith("CheckBox"))
        }
    }

    @Test
    fun `pictures of it, light`() = picture("light")

    @Test
    @Config(sdk = [34], qualifiers = PHONE_AT_NIGHT)
    fun `pictures of it, dark`() = picture("dark")

    private fun picture(theme: String) {
        val models = start()
        assertTrue(colors(screenshot(models, "android-models-$theme")) > 20)
    }

    private fun start(): ModelsActivity {
        val models = Robolectric.buildActivity(ModelsActivity::class.java).setup().get()
        await("the model") { state.load is LoadState.Ready && state.task == null && state.models.isNotEmpty() }
        return models
    }

    /** What the user does: presses "import", and picks a folder. */
    private fun pick(models: ModelsActivity, folder: File) {
        press(models.window.decorView.all().first { it.id == R.id.import_model })
        val asked = shadowOf(models).nextStartedActivityForResult
        assertNotNull("no picker was opened", asked)
        assertEquals(Intent.ACTION_OPEN_DOCUMENT_TREE, asked.intent.action)
        val picked = Intent().setData(FolderProvider.tree(folder))
        shadowOf(models).receiveResult(asked.intent, Activity.RESULT_OK, picked)
        if (!File(folder, ModelManifest.NAME).exists()) return
        await("the question") { ShadowDialog.getLatestDialog()?.isShowing == true }
        answer(RECIPE)
    }

    /** Takes what begins with [choice] in the dialog that is shown. */
    private fun answer(choice: String) {
        val list = (ShadowDialog.getLatestDialog() as AlertDialog).listView
        val index = (0 until list.count).first { list.getItemAtPosition(it).toString().startsWith(choice) }
        shadowOf(list).performItemClick(index)
        settle()
    }

    private fun copyOfNano(): File {
        val folder = File(temporary.newFolder(), "nano")
        File(checkNotNull(System.getProperty("mimo.model")) { "mimo.model is not set" }).copyRecursively(folder)
        return folder
    }

    private companion object {
        const val RECIPE = "int4_b32"
        const val PART = "mimo-nano-int4_b32-onnx/model.onnx.data"
    }
}
