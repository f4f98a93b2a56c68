package io.github.mimomobile.demo.bench

import android.content.Intent
import android.os.Bundle
import android.view.View
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TableLayout
import android.widget.TableRow
import android.widget.TextView
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.app
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.ModelsActivity
import io.github.mimomobile.demo.ui.ProblemCard
import io.github.mimomobile.demo.ui.ScreenActivity
import io.github.mimomobile.demo.ui.show
import io.github.mimomobile.demo.ui.shown
import java.text.NumberFormat

/** The benchmark screen; renders [BenchmarkUiState]. */
class BenchmarkActivity : ScreenActivity() {
    private val benchmark get() = app.benchmark
    private var rendered: Any? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.activity_benchmark)
        findViewById<TextView>(R.id.title).setText(R.string.bench_title)
        findViewById<View>(R.id.bench_start).setOnClickListener { benchmark.start() }
        findViewById<View>(R.id.bench_soak).setOnClickListener {
            benchmark.start(BenchmarkRequest(BenchmarkRequest.Kind.SOAK))
        }
        findViewById<View>(R.id.bench_compare).setOnClickListener {
            benchmark.start(BenchmarkRequest(BenchmarkRequest.Kind.COMPARE))
        }
        findViewById<View>(R.id.bench_share_text).setOnClickListener { share("text/plain", text(benchmark.state.value)) }
        findViewById<View>(R.id.bench_cancel).setOnClickListener { benchmark.cancel() }
        findViewById<View>(R.id.bench_share).setOnClickListener { share("application/json", benchmark.state.value.json) }
        render(benchmark.state, ::render)
    }

    private fun render(state: BenchmarkUiState) {
        val running = state.running
        for (id in listOf(R.id.bench_start, R.id.bench_soak, R.id.bench_compare)) {
            findViewById<View>(id).shown = running == null
            findViewById<View>(id).isEnabled = state.load.canCompute
        }
        findViewById<View>(R.id.bench_cancel).shown = running != null
        // A phone that sleeps measures its own saving of power.
        findViewById<View>(R.id.root).keepScreenOn = running != null
        findViewById<TextView>(R.id.bench_state).show(stateText(state))
        findViewById<ProgressBar>(R.id.bench_progress).apply {
            shown = running != null
            if (running != null) show(running.fraction)
        }
        val busy = state.problem?.kind == Problem.Kind.STATE
        findViewById<ProblemCard>(R.id.problem).render(state.problem, if (busy) 0 else R.string.models_title) {
            startActivity(Intent(this, ModelsActivity::class.java))
        }
        val results = listOf(state.rounds, state.soak, state.compared)
        if (results != rendered) {
            rendered = results
            renderRounds(state)
            renderCompared(state)
        }
        findViewById<View>(R.id.bench_share).shown = state.json != null
        findViewById<View>(R.id.bench_share_text).shown = state.json != null && state.compared.isNotEmpty()
        findViewById<TextView>(R.id.bench_file).show(state.file?.let { getString(R.string.bench_saved, it) })
    }

    private fun stateText(state: BenchmarkUiState): String {
        val running = state.running
        val load = state.load
        return when {
            running?.kind == BenchmarkRequest.Kind.SOAK -> getString(R.string.soak_running, running.done, running.total)
            running?.kind == BenchmarkRequest.Kind.COMPARE ->
                getString(R.string.compare_running, running.done, running.total, load.name.orEmpty(), load.compared?.recipe.orEmpty())
            running?.kind == BenchmarkRequest.Kind.SELF_TEST -> getString(R.string.work_verify)
            running != null -> getString(R.string.bench_running, running.done, running.total, running.depth)
            state.skipped.isNotEmpty() && state.json != null ->
                getString(R.string.bench_skipped, state.skipped.joinToString { NumberFormat.getIntegerInstance().format(it) })
            load.canCompute -> load.name.orEmpty()
            load is LoadState.Loading -> getString(R.string.opening)
            else -> getString(R.string.not_loaded)
        }
    }

    private fun renderRounds(state: BenchmarkUiState) {
        val list = findViewById<LinearLayout>(R.id.bench_results)
        list.removeAllViews()
        for (depth in state.depths) {
            val rounds = state.rounds.filter { it.depth == depth }
            val card = layoutInflater.inflate(R.layout.item_speed, list, false)
            card.findViewById<TextView>(R.id.speed_depth).text =
                resources.getQuantityString(R.plurals.bench_depth, depth, depth)
            card.findViewById<TextView>(R.id.speed_prefill).text =
                speed(R.string.bench_prefill, spread(rounds.map { it.prefillTps }))
            card.findViewById<TextView>(R.id.speed_decode).text =
                speed(R.string.bench_decode, spread(rounds.map { it.decodeTps }))
            list.addView(card)
        }
        if (state.soak.isNotEmpty()) list.addView(soakCard(list, state.soak))
        findViewById<PlotView>(R.id.plot).apply {
            shown = state.rounds.isNotEmpty() || state.soak.isNotEmpty()
            if (state.soak.isEmpty()) show(state.rounds) else showSoak(state.soak)
        }
    }

    /** What heat took: the first tenth beside the last one. */
    private fun soakCard(list: LinearLayout, samples: List<SoakSample>): View {
        val tenth = maxOf(1, samples.size / 10)
        val first = samples.take(tenth).map { it.decodeTps }.average()
        val last = samples.takeLast(tenth).map { it.decodeTps }.average()
        return layoutInflater.inflate(R.layout.item_speed, list, false).apply {
            findViewById<TextView>(R.id.speed_depth).text = getString(R.string.soak_title, samples.last().atS)
            findViewById<TextView>(R.id.speed_prefill).text = getString(R.string.soak_first, first)
            findViewById<TextView>(R.id.speed_decode).text = getString(R.string.soak_last, last)
        }
    }

    private fun speed(name: Int, speed: Spread) = getString(name, speed.mean, speed.stddev)

    /** A row for each measure; the names of recipes and measures stand out. */
    private fun renderCompared(state: BenchmarkUiState) {
        findViewById<View>(R.id.compare_scroll).shown = state.compared.isNotEmpty()
        findViewById<TextView>(R.id.compare_about).show(state.about.takeIf { state.compared.isNotEmpty() })
        val table = findViewById<TableLayout>(R.id.compare_table)
        table.removeAllViews()
        if (state.compared.isEmpty()) return
        comparisonTable(state.compared).forEachIndexed { index, cells ->
            val row = TableRow(this)
            cells.forEachIndexed { column, text ->
                val style = if (index == 0 || column == 0) R.layout.cell_head else R.layout.cell
                row.addView((layoutInflater.inflate(style, row, false) as TextView).apply { this.text = text })
            }
            table.addView(row)
        }
    }

    private fun text(state: BenchmarkUiState) = asText(state.about.orEmpty(), comparisonTable(state.compared))

    private fun share(type: String, text: String?) {
        val send = Intent(Intent.ACTION_SEND)
            .setType(type)
            .putExtra(Intent.EXTRA_SUBJECT, getString(R.string.bench_title))
            .putExtra(Intent.EXTRA_TEXT, text)
        startActivity(Intent.createChooser(send, getString(R.string.bench_share)))
    }
}
