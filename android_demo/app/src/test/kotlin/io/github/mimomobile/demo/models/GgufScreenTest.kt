package io.github.mimomobile.demo.models

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.all
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.bench.recordsFolder
import io.github.mimomobile.demo.press
import io.github.mimomobile.demo.settle
import io.github.mimomobile.demo.shown
import io.github.mimomobile.demo.ui.bytes
import io.github.mimomobile.runtime.ExecutionProvider
import io.github.mimomobile.runtime.ModelInfo
import io.github.mimomobile.runtime.llama.GgufMemory
import java.io.File
import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
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

/** GGUF files on the model screen: alone, from the file picker, and as recipes of a folder beside ONNX. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class GgufScreenTest {
    @get:Rule
    val hardware = Hardware()

    @get:Rule
    val temporary = TemporaryFolder()

    private val state get() = application.models.state.value
    private val own get() = File(application.filesDir, "models")

    @Test
    fun `a GGUF file that can be read again is opened where it is, under its own name`() {
        val models = start()
        pick(models, file(), keeps = true)
        awaitReady("my model")
        val entry = state.models.single { it.origin == Origin.DOCUMENT }
        assertEquals("my model", entry.name)
        assertFalse("it was copied", File(entry.path).walk().any { it.name.endsWith(".gguf") })
        await("its card") { "my model" in models.shown() && "llama.cpp" in models.shown() }
        assertTrue(models.shown(), models.getString(R.string.origin_document) in models.shown())
    }

    @Test
    fun `a GGUF file that the app may not read after its next start is copied`() {
        val models = start()
        val file = file()
        pick(models, file, keeps = false)
        awaitReady("my model")
        assertTrue(file.delete())
        val entry = state.models.single { it.origin == Origin.IMPORTED }
        assertEquals(2_139_456L, checkNotNull(entry.lone?.file).length())
        application.models.load(entry.path)
        await("the copy") { (state.load as? LoadState.Ready)?.path == entry.path }
    }

    @Test
    fun `a document that was deleted says so, and names the file`() {
        val models = start()
        val file = file()
        pick(models, file, keeps = true)
        awaitReady("my model")
        val entry = state.models.single { it.origin == Origin.DOCUMENT }
        assertTrue(file.delete())
        application.models.load(entry.path)
        await("the error") { state.load is LoadState.Failed }
        val problem = (state.load as LoadState.Failed).problem
        assertEquals(Problem.Kind.STORAGE, problem.kind)
        assertTrue(problem.detail, models.getString(R.string.document_gone, "my model") in problem.detail)
    }

    @Test
    fun `a deleted entry leaves the document, and gives back the right to read it`() {
        val models = start()
        val file = file()
        pick(models, file, keeps = true)
        awaitReady("my model")
        assertEquals(1, application.contentResolver.persistedUriPermissions.size)
        application.models.delete(state.models.single { it.origin == Origin.DOCUMENT })
        await("nano") { (state.load as? LoadState.Ready)?.path?.endsWith("mimo-nano") == true }
        assertTrue(file.isFile)
        assertEquals(0, application.contentResolver.persistedUriPermissions.size)
    }

    @Test
    fun `what is no GGUF file is told by its name, not by a number`() {
        val models = start()
        val file = File(temporary.newFolder(), "notes.txt").apply { writeText("no model at all") }
        pick(models, file, keeps = true)
        await("the error") { state.load is LoadState.Failed }
        val detail = (state.load as LoadState.Failed).problem.detail
        assertTrue(detail, "notes.txt" in detail && "/proc/" !in detail)
    }

    @Test
    fun `a folder with both engines' files lets the user choose, and keeps the choice`() {
        val pushed = File(application.getExternalFilesDir("models"), "both")
        nano().copyRecursively(pushed)
        measured("mimo-nano", "q4_0", 12.5)
        val models = start()
        val entry = state.models.single { it.origin == Origin.PUSHED }
        assertEquals(listOf("q8_0", "q4_k_m", "q4_0", "int4_b32"), entry.recipes.map { it.recipe })
        press(models.window.decorView.all().single { it.id == R.id.model_recipe && it.isShown })
        val dialog = ShadowDialog.getLatestDialog() as AlertDialog
        val offered = (0 until dialog.listView.count).map { dialog.listView.getItemAtPosition(it).toString() }
        assertTrue("$offered", offered.any { it.startsWith("q4_0") && "llama.cpp" in it && "12.5" in it })
        assertTrue("$offered", offered.any { it.startsWith("int4_b32") && "ONNX Runtime" in it })
        shadowOf(dialog.listView).performItemClick(2)
        settle()
        assertEquals("q4_0", application.settings.values.value.of(entry.path).recipe)
        application.models.load(entry.path)
        await("the model") { (state.load as? LoadState.Ready)?.run { path == entry.path && info.recipe == "q4_0" } == true }
        application.models.choose(entry, application.settings.values.value.of(entry.path).copy(recipe = "int4_b32"))
        await("the other") { (state.load as? LoadState.Ready)?.info?.recipe == "int4_b32" && state.load.path == entry.path }
    }

    @Test
    fun `a picked folder is imported with the recipe that the user takes, for llama dot cpp too`() {
        start()
        application.models.import(FolderProvider.tree(nano()), move = false)
        await("the question") { state.choice != null }
        assertEquals(4, state.choice!!.recipes.size)
        assertEquals(listOf("mimo-nano"), own.list()!!.toList())
        application.models.import(state.choice!!.tree, move = false, recipe = "q4_0")
        await("the import") { state.task == null && (state.load as? LoadState.Ready)?.info?.recipe == "q4_0" }
        assertNull(state.problem)
        assertEquals(listOf("q4_0"), state.models.single { it.origin == Origin.IMPORTED }.recipes.map { it.recipe })
    }

    @Test
    fun `a GGUF file alone that adb pushed into the models' folder is found, and its MTP layer is no model of its own`() {
        val pushed = checkNotNull(application.getExternalFilesDir("models"))
        File(nano(), "mimo-nano-q4_0.gguf").copyTo(File(pushed, "mine.gguf"))
        File(nano(), "mimo-nano-q4_0-mtp.gguf").copyTo(File(pushed, "mine-mtp.gguf"))
        val folder = File(pushed, "other").apply { mkdirs() }
        File(nano(), "mimo-nano-q8_0.gguf").copyTo(File(folder, "x.gguf"))
        File(nano(), "mimo-nano-q8_0-mtp.gguf").copyTo(File(folder, "x-mtp.gguf"))
        val models = start()
        assertEquals(listOf("mine", "x"), state.models.filter { it.origin == Origin.PUSHED }.map { it.name })
        await("the cards") { "mine" in models.shown() && models.getString(R.string.origin_pushed) in models.shown() }
        for (name in listOf("mine", "x")) {
            application.models.load(state.models.single { it.name == name }.path)
            awaitReady(name)
            assertTrue("its MTP layer drafts", (state.load as LoadState.Ready).info.draftsWithMtp)
        }
        application.models.delete(state.models.single { it.name == "mine" })
        await("its end") { state.models.none { it.name == "mine" } }
        assertEquals(listOf("other"), pushed.list()!!.toList())
    }

    @Test
    fun `a GGUF file has a row for its context, and is told to take what fits into the memory`() {
        val pushed = checkNotNull(application.getExternalFilesDir("models"))
        File(nano(), "mimo-nano-q4_0.gguf").copyTo(File(pushed, "mine.gguf"))
        val models = start()
        val entry = state.models.single { it.name == "mine" }
        assertEquals(2048, entry.shape!!.trainedTokens)
        models.askContext(entry)
        val dialog = ShadowDialog.getLatestDialog() as AlertDialog
        val about = dialog.findViewById<android.widget.TextView>(R.id.context_about).text.toString()
        assertTrue(about, "%,d".format(2048) in about && models.getString(R.string.context_fits, 2048) in about)
        dialog.dismiss()
        assertEquals(2, models.window.decorView.all().count { it.id == R.id.model_context && it.isShown })
        application.models.load(entry.path)
        awaitReady("mine")
        assertEquals("as much as fits", 2048, (state.load as LoadState.Ready).info.contextLength)
        application.models.choose(entry, application.settings.values.value.of(entry.path).copy(contextLength = 700))
        await("the other context") { (state.load as? LoadState.Ready)?.info?.contextLength == 700 }
        models.showDetails(entry)
        val sheet = checkNotNull(ShadowDialog.getLatestDialog().window).decorView.shown()
        val memory = (entry.shape as GgufShape).memory
        assertTrue(sheet, models.bytes(memory.neededBytes(700, repack = true)) in sheet)
        assertTrue(sheet, models.bytes(memory.mappedBytes(repack = false)) in sheet)
        assertTrue(sheet, models.getString(R.string.fact_available) in sheet && models.bytes(4_000_000_000) in sheet)
    }

    @Test
    fun `the context of a GGUF file fits beside copied weights, or beside mapped ones where there is no room for copies`() {
        val memory = GgufMemory.read(File(nano(), "mimo-nano-q4_0.gguf"))
        val shape = GgufShape(memory)
        fun room(bytes: Long) = bytes * 10 / 9 + 1
        assertEquals(2048, shape.largestContext(4_000_000_000, int8 = false))
        val (copied, mapped) = memory.neededBytes(2048, repack = true) to memory.neededBytes(2048, repack = false)
        assertTrue("$copied $mapped", copied > mapped)
        assertEquals(2048, shape.largestContext(room(copied), int8 = false))
        assertEquals("mapped", 2048, shape.largestContext(room(copied) - 1000, int8 = false))
        val less = shape.largestContext(room(mapped) - 1000, int8 = false)
        assertEquals(1792, less)
        assertEquals(2048, shape.largestContext(room(mapped) - 1000, int8 = true))
        assertEquals("the least, which the engine then refuses", 1024, shape.largestContext(0, int8 = false))
    }

    @Test
    fun `a file that is no model has no context to choose, and a changed one is read again`() {
        val file = File(checkNotNull(application.getExternalFilesDir("models")), "mine.gguf").apply { writeText("no model") }
        start()
        assertNull(state.models.single { it.name == "mine" }.shape)
        File(nano(), "mimo-nano-q4_0.gguf").copyTo(file, overwrite = true)
        application.models.refresh()
        await("its shape") { state.models.single { it.name == "mine" }.shape != null }
        val first = state.models.single { it.name == "mine" }.shape
        application.models.refresh()
        settle()
        assertTrue("it is read once", first === state.models.single { it.name == "mine" }.shape)
    }

    @Test
    fun `what a loaded model gives back counts copied weights, not mapped ones`() {
        val q4 = GgufMemory.read(File(nano(), "mimo-nano-q4_0.gguf"))
        val info = ModelInfo("x", "q4_0", 64, q4.fileBytes, 10, ExecutionProvider.CPU, null, emptyMap(), true, true, false)
        assertEquals(10 + 1_000_000, ModelShape.heldBytes(info.copy(mappedBytes = q4.fileBytes - 1_000_000)))
        assertEquals(10, ModelShape.heldBytes(info.copy(mappedBytes = 3 * q4.fileBytes)))
        assertEquals(10 + (1.2 * q4.fileBytes).toLong(), ModelShape.heldBytes(info))
    }

    private fun awaitReady(name: String) =
        await("the model") { state.task == null && (state.load as? LoadState.Ready)?.name == name }

    private fun start(): ModelsActivity {
        val models = Robolectric.buildActivity(ModelsActivity::class.java).setup().get()
        await("the model") { state.load is LoadState.Ready && state.task == null && state.models.isNotEmpty() }
        return models
    }

    /** What the user does: presses "open a GGUF file", and picks one; the provider [keeps] the right to read it, or not. */
    private fun pick(models: ModelsActivity, file: File, keeps: Boolean) {
        press(models.window.decorView.all().first { it.id == R.id.import_file })
        val asked = shadowOf(models).nextStartedActivityForResult
        assertNotNull("no picker was opened", asked)
        assertEquals(Intent.ACTION_OPEN_DOCUMENT, asked.intent.action)
        val picked = Intent().setData(FolderProvider.document(file))
        // Android's picker gives both.
        val rights = Intent.FLAG_GRANT_READ_URI_PERMISSION or Intent.FLAG_GRANT_WRITE_URI_PERMISSION
        if (keeps) picked.addFlags(rights or Intent.FLAG_GRANT_PERSISTABLE_URI_PERMISSION)
        shadowOf(models).receiveResult(asked.intent, Activity.RESULT_OK, picked)
    }

    private fun measured(model: String, recipe: String, tps: Double) {
        val run = JSONObject().put("depth", 0).put("speeds", JSONArray().put(JSONObject().put("decode_tps", tps)))
        val record = JSONObject().put("model", JSONObject().put("name", model).put("recipe", recipe))
        val folder = recordsFolder(application).apply { mkdirs() }
        File(folder, "mine.json").writeText(record.put("runs", JSONArray().put(run)).toString())
        File(folder, "other.json").writeText("no record")
    }

    private fun file() = File(temporary.newFolder(), "my model.gguf").also { File(nano(), "mimo-nano-q4_0.gguf").copyTo(it) }

    private fun nano() = File(checkNotNull(System.getProperty("mimo.model")) { "mimo.model is not set" })
}
