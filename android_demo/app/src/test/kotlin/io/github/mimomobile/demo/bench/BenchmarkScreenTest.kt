package io.github.mimomobile.demo.bench

import android.content.Intent
import android.view.View
import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.PHONE_AT_NIGHT
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.chat.ChatActivity
import io.github.mimomobile.demo.colors
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.press
import io.github.mimomobile.demo.screenshot
import io.github.mimomobile.demo.shown
import io.github.mimomobile.demo.view
import java.io.File
import java.util.concurrent.CompletableFuture
import java.util.concurrent.TimeUnit
import kotlin.math.sin
import org.json.JSONObject
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

/** The real benchmark screen; the speeds are of this computer. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class BenchmarkScreenTest {
    @get:Rule
    val hardware = Hardware()

    private val state get() = application.benchmark.state.value

    @Test
    fun `it measures 128 tokens of prompt and 32 generated ones three times at each depth`() {
        measured(start())
        assertTrue("${state.depths}", state.depths.size > 1 && state.depths.first() == 0)
        for ((depth, rounds) in state.rounds.groupBy { it.depth }) {
            assertEquals(3, rounds.size)
            for (round in rounds) {
                assertEquals("$round", depth + 128, round.promptTokens)
                // The MTP layer computes the last token of the cache again.
                assertEquals("$round", depth, round.cachedTokens + if (depth > 0) 1 else 0)
                assertEquals(32, round.generatedTokens)
                assertTrue(round.prefillTps > 0 && round.decodeTps > 0)
            }
        }
    }

    @Test
    fun `the record is saved, and shared as JSON`() {
        val bench = start()
        measured(bench)
        assertEquals(state.json, File(state.file!!).readText())
        assertTrue("mimo-nano" in JSONObject(state.json!!).toString())
        press(bench.view(R.id.bench_share))
        val started = generateSequence { shadowOf(application).nextStartedActivity }
        val chooser = started.single { it.action == Intent.ACTION_CHOOSER }
        val sent = chooser.getParcelableExtra(Intent.EXTRA_INTENT, Intent::class.java)
        assertNotNull(sent)
        assertEquals(state.json, sent!!.getStringExtra(Intent.EXTRA_TEXT))
    }

    @Test
    fun `adb starts it, and finds the record under the name that it gave`() {
        val soFar = File(application.getExternalFilesDir("benchmarks"), "mine.json.so-far")
        val seen = CompletableFuture.supplyAsync { // the main thread may see it end only
            while (!soFar.exists()) Thread.sleep(1)
            soFar.readText()
        }
        val file = ask("benchmark", "result" to "mine.json", "model" to "mimo-nano")
        await("the file") { file.exists() && !soFar.exists() }
        val record = JSONObject(file.readText())
        assertTrue("nobody asked for one", record.isNull("mode"))
        val first = JSONObject(seen.get(10, TimeUnit.SECONDS)).getJSONArray("runs").getJSONObject(0)
        assertEquals("in case that Android ends the app", 0, first.getInt("depth"))
        assertEquals(listOf(0, 1024), record.getJSONArray("runs").run { (0 until length()).map { getJSONObject(it).getInt("depth") } })
        assertTrue(record.isNull("failure"))
    }

    @Test
    fun `a model that adb names and that is not there is told in the file`() {
        val file = ask("benchmark", "result" to "mine.json", "model" to "large")
        await("the file") { file.exists() }
        val reason = JSONObject(file.readText()).getJSONObject("failure").getString("reason")
        assertTrue(reason, "large" in reason && "mimo-nano" in reason)
    }

    @Test
    fun `a self-test verifies every byte and asks one question`() {
        val file = ask("selftest", "result" to "self.json")
        await("the file") { file.exists() }
        val record = JSONObject(file.readText())
        assertTrue(record.getBoolean("verified"))
        assertTrue(record.getString("answer"), record.getString("answer").endsWith("42"))
        assertEquals(0, record.getJSONArray("runs").length())
    }

    @Test
    fun `a mode that adb asks for computes, and the record says so`() {
        val file = ask("selftest", "result" to "cpu.json", "model" to "mimo-nano", "mode" to "cpu")
        await("the file") { file.exists() }
        val record = JSONObject(file.readText())
        assertEquals("cpu", record.getString("mode"))
        assertEquals("CPU", record.getJSONObject("model").getString("provider"))
    }

    @Test
    fun `a mode that cannot be had is told in the file, and nothing else computes instead`() {
        val noQnn = "QNN cannot run the whole model"
        for ((mode, why) in listOf("npu" to noQnn, "split" to noQnn, "gpu" to "there are npu, split, cpu")) {
            val file = ask("selftest", "result" to "$mode.json", "model" to "mimo-nano", "mode" to mode)
            await("the file") { file.exists() }
            val reason = JSONObject(file.readText()).getJSONObject("failure").getString("reason")
            assertTrue(reason, why in reason)
        }
    }

    @Test
    fun `a soak tells speed, heat and battery in time, in the record and in the plot`() {
        val file = ask("soak", "result" to "soak.json", seconds = 3)
        await("the file") { file.exists() }
        val samples = JSONObject(file.readText()).getJSONArray("soak")
        assertTrue("${samples.length()} samples", samples.length() in 10..60)
        val last = samples.getJSONObject(samples.length() - 1)
        assertEquals(3.0, last.getDouble("at_s"), 1.0)
        assertTrue(last.getDouble("decode_tps") > 0)
        assertEquals(31.2, last.getDouble("battery_temperature_c"), 0.01)
        assertEquals(81, last.getInt("battery_percent"))
        val bench = Robolectric.buildActivity(BenchmarkActivity::class.java).setup().get()
        await("the plot") { bench.view<View>(R.id.plot).isShown && state.running == null }
        val told = bench.view<View>(R.id.plot).contentDescription
        assertTrue("$told", bench.getString(R.string.plot_battery) in told)
        assertTrue(bench.shown(), bench.getString(R.string.soak_title, last.getDouble("at_s")) in bench.shown())
    }

    @Test
    fun `an intent from elsewhere asks for nothing, or for what is in range`() {
        assertNull(BenchmarkRequest.of(Intent(Intent.ACTION_MAIN)))
        val wild = Intent().putExtra("soak", true).putExtra("seconds", -5).putExtra("result", "../../databases/x")
        val request = BenchmarkRequest.of(wild)!!
        assertEquals(1, request.seconds)
        assertNull(request.result)
        assertNull(BenchmarkRequest.of(Intent().putExtra("soak", true).putExtra("result", ".."))!!.result)
    }

    @Test
    fun `pictures of a soak, light`() = soakPicture("light")

    @Test
    @Config(sdk = [34], qualifiers = PHONE_AT_NIGHT)
    fun `pictures of a soak, dark`() = soakPicture("dark")

    /** Ten minutes as a phone might have them, made up: nobody waits for them here. */
    private fun soakPicture(theme: String) {
        val bench = start()
        val samples = (1..60).map {
            val heat = minOf(1.0, it / 35.0)
            SoakSample(it * 10.0, 11.8 - 3.9 * heat + 0.3 * sin(it * 1.7), 30.5 + 9.5 * heat, 81 - it / 9, -900_000, (heat * 3).toInt())
        }
        bench.findViewById<PlotView>(R.id.plot).showSoak(samples)
        bench.view<View>(R.id.plot).visibility = View.VISIBLE
        assertTrue(colors(screenshot(bench, "android-soak-$theme")) > 20)
    }

    /** What `am start --ez KIND true …` does; the file that the record is to be in. */
    private fun ask(kind: String, vararg texts: Pair<String, String>, seconds: Int? = null): File {
        val intent = Intent(application, ChatActivity::class.java).putExtra(kind, true)
        for ((name, value) in texts) intent.putExtra(name, value)
        if (seconds != null) intent.putExtra("seconds", seconds)
        Robolectric.buildActivity(ChatActivity::class.java, intent).setup()
        val next = shadowOf(application).nextStartedActivity
        assertEquals(BenchmarkActivity::class.java.name, next.component!!.className)
        return File(application.getExternalFilesDir("benchmarks"), texts.toMap().getValue("result"))
    }

    @Test
    fun `the screen stays on while it measures, and only then`() {
        val bench = start()
        val root = bench.view<View>(R.id.root)
        assertFalse(root.keepScreenOn)
        press(bench.view(R.id.bench_start))
        await("a screen that stays on") { root.keepScreenOn }
        press(bench.view(R.id.bench_cancel))
        await("the end of it") { !root.keepScreenOn }
    }

    @Test
    fun `cancelling it keeps what was measured`() {
        val bench = start()
        press(bench.view(R.id.bench_start))
        await("a round") { state.rounds.isNotEmpty() }
        press(bench.view(R.id.bench_cancel))
        await("the end") { state.running == null }
        assertTrue(state.rounds.isNotEmpty())
        await("the button") { bench.view<View>(R.id.bench_start).isShown }
    }

    @Test
    fun `the plot tells its values to a screen reader`() {
        val bench = start()
        measured(bench)
        val plot = bench.view<View>(R.id.plot)
        await("the plot") { plot.isShown }
        assertTrue("${plot.contentDescription}", plot.contentDescription.count(Char::isDigit) > 4)
    }

    @Test
    fun `pictures of it, light`() = picture("light")

    @Test
    @Config(sdk = [34], qualifiers = PHONE_AT_NIGHT)
    fun `pictures of it, dark`() = picture("dark")

    private fun picture(theme: String) {
        val bench = start()
        measured(bench)
        assertTrue(colors(screenshot(bench, "android-benchmark-$theme")) > 20)
    }

    private fun start(): BenchmarkActivity {
        val bench = Robolectric.buildActivity(BenchmarkActivity::class.java).setup().get()
        await("the model") { state.load is LoadState.Ready && bench.view<View>(R.id.bench_start).isEnabled }
        return bench
    }

    private fun measured(bench: BenchmarkActivity) {
        press(bench.view(R.id.bench_start))
        await("the record") { state.json != null && state.running == null }
        assertNull(state.problem)
    }
}
