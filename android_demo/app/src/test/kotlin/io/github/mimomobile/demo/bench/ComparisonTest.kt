package io.github.mimomobile.demo.bench

import android.content.Intent
import android.view.View
import android.widget.TableLayout
import android.widget.TableRow
import android.widget.TextView
import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.all
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.chat.ChatActivity
import io.github.mimomobile.demo.colors
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.press
import io.github.mimomobile.demo.screenshot
import io.github.mimomobile.demo.view
import java.io.File
import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** The comparison of all recipes, by both engines, on this computer. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class ComparisonTest {
    @get:Rule
    val hardware = Hardware()

    private val state get() = application.benchmark.state.value
    private val pushed get() = File(application.getExternalFilesDir("models"), "both")

    @Before
    fun push() {
        val nano = File(checkNotNull(System.getProperty("mimo.model")) { "mimo.model is not set" })
        nano.copyRecursively(pushed)
        nano.resolve("manifest.json").let { check("int4_b32" in it.readText()) }
    }

    @Test
    fun `both engines have turns with the same settings, in one table that is shared, and what was loaded before is loaded again`() {
        val bench = start()
        val order = mutableListOf<String>()
        press(bench.view(R.id.bench_compare))
        await("the end") {
            order += state.compared.flatMap { each -> each.turns.indices.map { "${each.recipe} $it" } }.filter { it !in order }
            state.json != null && state.running == null && bench.view<View>(R.id.bench_share_text).isShown
        }
        assertNull(state.problem)
        val recipes = listOf("q8_0", "q4_k_m", "q4_0", "int4_b32")
        assertEquals(recipes.toSet(), state.compared.map { it.recipe }.toSet())
        assertEquals(setOf("llama.cpp", "ONNX Runtime"), state.compared.map { it.engine }.toSet())
        val names = state.compared.map { it.recipe }
        val turns = names.map { "$it 0" } + names.reversed().map { "$it 1" } + names.map { "$it 2" }
        assertEquals("forth and back, so that heat makes no recipe slower than another", turns, order)
        for (each in state.compared) {
            assertNull(each.failure)
            assertEquals("three turns of ${each.name}", 3, each.turns.size)
            assertEquals(1024, each.info!!.contextLength)
            for (turn in each.turns) {
                assertTrue("$turn", turn.loadS > 0 && turn.firstTokenS > 0 && turn.prefillTps > 0 && turn.decodeTps > 0)
                assertTrue("$turn", turn.draftedTps!! > 0 && turn.rssBytes!! >= turn.anonBytes!! && turn.anonBytes > 0)
            }
        }
        val table = bench.view<TableLayout>(R.id.compare_table)
        assertTrue(table.isShown)
        val rows = (0 until table.childCount).map { row ->
            (table.getChildAt(row) as TableRow).all().filterIsInstance<TextView>().map { "${it.text}" }.toList()
        }
        assertEquals(comparisonTable(), rows)
        assertEquals(listOf("") + state.compared.map { it.recipe }, rows.first())
        assertEquals("1.00", rows.single { it[0] == bench.getString(R.string.compare_ratio) }[1])
        assertTrue(state.about!!, bench.resources.getQuantityString(R.plurals.compare_cores, cores, cores) in state.about!!)
        assertTrue(state.about!!, bench.getString(R.string.compare_heat, "none") in state.about!!)
        assertTrue(colors(screenshot(bench, "android-comparison-light")) > 20)
        press(bench.view(R.id.bench_share_text))
        val lines = shared().lines()
        assertEquals(state.about, lines.first())
        assertTrue("$lines", state.compared.all { it.recipe!! in lines[1] })
        assertEquals("columns", 1, lines.drop(1).filter { it.endsWith("B") }.map { it.length }.distinct().size)
        press(bench.view(R.id.bench_share))
        assertEquals(state.json, shared())
        await("what was loaded before") {
            (application.models.state.value.load as? LoadState.Ready)?.run { path.endsWith("files/models/mimo-nano") && compared == null } == true
        }
    }

    @Test
    fun `the record tells medians, ratios, turns and the phone, and is what the choice of a recipe shows`() {
        val file = ask("both.json")
        await("the file") { file.exists() }
        val record = JSONObject(file.readText())
        assertTrue(record.isNull("failure"))
        assertEquals("mimo-nano", record.getJSONObject("model").getString("name"))
        assertTrue(record.getJSONObject("device").getInt("cores") > 0)
        val compared = record.getJSONArray("compared").objects()
        assertEquals(4, compared.size)
        val first = compared.first().getJSONObject("medians").getDouble("decode_tps")
        for (each in compared) {
            val turns = each.getJSONArray("turns").objects()
            val speeds = turns.map { it.getDouble("decode_tps") }.sorted()
            val median = each.getJSONObject("medians").getDouble("decode_tps")
            assertEquals(speeds[1], median, 0.0)
            assertEquals(median / first, each.getDouble("ratio"), 1e-9)
            assertEquals(0, turns.first().getInt("thermal_status"))
            val now = Conditions.of(application, application.settings.values.value)
            val speed = Speeds.read(recordsFolder(application)).of("mimo-nano", each.getString("recipe"), now)
            assertEquals(MeasuredSpeed(median, isSame = true), speed)
            val other = Speeds.read(recordsFolder(application)).of("mimo-nano", each.getString("recipe"), now.copy(threads = 7))
            assertEquals("under other settings", MeasuredSpeed(median, isSame = false), other)
        }
        assertFalse("it is whole", File(file.path + BenchmarkHolder.SO_FAR).exists())
    }

    @Test
    fun `a recipe that cannot be loaded is told, and the others are measured`() {
        File(pushed, "mimo-nano-q8_0.gguf").run { writeBytes(readBytes().also { it[it.size - 9] = 77 }) }
        val file = ask("both.json")
        await("the file") { file.exists() }
        val compared = JSONObject(file.readText()).getJSONArray("compared").objects().associateBy { it.getString("recipe") }
        val broken = compared.getValue("q8_0")
        assertTrue("$broken", "damaged" in broken.getString("failure"))
        assertEquals(0, broken.getJSONArray("turns").length())
        assertEquals(setOf(3), (compared - "q8_0").values.map { it.getJSONArray("turns").length() }.toSet())
    }

    @Test
    fun `cancelling it keeps the table, and loads what was loaded before`() {
        val bench = start()
        press(bench.view(R.id.bench_compare))
        await("a turn") { state.compared.any { it.turns.isNotEmpty() } }
        press(bench.view(R.id.bench_cancel))
        await("the end") { state.running == null }
        assertTrue(state.compared.any { it.turns.isNotEmpty() })
        await("what was loaded before") { (application.models.state.value.load as? LoadState.Ready)?.compared == null && state.load.canCompute }
    }

    @Test
    fun `another model that the user loads ends it`() {
        val bench = start()
        press(bench.view(R.id.bench_compare))
        await("a turn") { state.compared.any { it.turns.isNotEmpty() } }
        application.models.load(pushed.path)
        await("the end") { state.running == null }
        assertTrue("${state.compared.map { it.turns.size }}", state.compared.any { it.turns.size < 3 })
        await("what the user loads, and not what was loaded before") {
            (application.models.state.value.load as? LoadState.Ready)?.run { path == pushed.path && compared == null } == true
        }
    }

    @Test
    fun `one recipe is nothing to compare`() {
        pushed.deleteRecursively()
        application.models.refresh()
        val file = ask("one.json")
        await("the file") { file.exists() }
        val reason = JSONObject(file.readText()).getJSONObject("failure").getString("reason")
        assertTrue(reason, "the only recipe of mimo-nano" in reason)
        assertEquals(Problem.Kind.STATE, state.problem?.kind)
    }

    @Test
    fun `the median is the one in the middle`() {
        assertNull(median(emptyList()))
        assertEquals(3.0, median(listOf(9.0, 1.0, 3.0))!!, 0.0)
        assertEquals(2.0, median(listOf(3.0, 1.0))!!, 0.0)
    }

    @Test
    fun `there is no ratio to what gave no token`() {
        val turn = Turn(1.0, 1.0, 1.0, decodeTps = 0.0, null, null, 0.0, null, null, null, null)
        val (none, one) = listOf(turn, turn.copy(decodeTps = 3.0)).map { Contender("", "q4_0", "", null, null, turns = listOf(it)) }
        assertEquals(0.0, ratio(none, one)!!, 0.0)
        for (each in listOf(none, one)) assertNull("JSON has no such number", ratio(each, none))
    }

    private val cores get() = Runtime.getRuntime().availableProcessors()

    private fun comparisonTable() = application.comparisonTable(state.compared)

    private fun shared(): String {
        val chooser = generateSequence { shadowOf(application).nextStartedActivity }.single { it.action == Intent.ACTION_CHOOSER }
        val sent = chooser.getParcelableExtra(Intent.EXTRA_INTENT, Intent::class.java)
        assertNotNull(sent)
        return sent!!.getStringExtra(Intent.EXTRA_TEXT)!!
    }

    /** What `am start --ez compare true …` does. */
    private fun ask(result: String): File {
        val intent = Intent(application, ChatActivity::class.java)
            .putExtra("compare", true).putExtra("result", result).putExtra("model", "mimo-nano")
        Robolectric.buildActivity(ChatActivity::class.java, intent).setup()
        return File(application.getExternalFilesDir("benchmarks"), result)
    }

    private fun start(): BenchmarkActivity {
        val bench = Robolectric.buildActivity(BenchmarkActivity::class.java).setup().get()
        await("the model") { state.load is LoadState.Ready && bench.view<View>(R.id.bench_compare).isEnabled }
        return bench
    }

    private fun JSONArray.objects() = (0 until length()).map(::getJSONObject)
}
