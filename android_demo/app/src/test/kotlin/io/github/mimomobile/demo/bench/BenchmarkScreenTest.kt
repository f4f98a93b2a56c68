package io.github.mimomobile.demo.bench

import android.content.Intent
import android.view.View
import io.github.mimomobile.demo.Hardware
import io.github.mimomobile.demo.PHONE
import io.github.mimomobile.demo.PHONE_AT_NIGHT
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.application
import io.github.mimomobile.demo.await
import io.github.mimomobile.demo.colors
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.press
import io.github.mimomobile.demo.screenshot
import io.github.mimomobile.demo.view
import java.io.File
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
