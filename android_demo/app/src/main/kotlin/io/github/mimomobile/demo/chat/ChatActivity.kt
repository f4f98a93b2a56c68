package io.github.mimomobile.demo.chat

import android.Manifest
import android.content.ActivityNotFoundException
import android.content.Intent
import android.content.pm.PackageManager
import android.os.Build
import android.os.Bundle
import android.text.Editable
import android.text.TextWatcher
import android.view.KeyEvent
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.PopupMenu
import android.widget.ProgressBar
import android.widget.TextView
import android.widget.Toast
import io.github.mimomobile.demo.Problem
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.SettingsActivity
import io.github.mimomobile.demo.VitalSigns
import io.github.mimomobile.demo.app
import io.github.mimomobile.demo.bench.BenchmarkActivity
import io.github.mimomobile.demo.bench.BenchmarkRequest
import io.github.mimomobile.demo.models.LoadState
import io.github.mimomobile.demo.models.ModelsActivity
import io.github.mimomobile.demo.ui.ProblemCard
import io.github.mimomobile.demo.ui.SEPARATOR
import io.github.mimomobile.demo.ui.ScreenActivity
import io.github.mimomobile.demo.ui.show
import io.github.mimomobile.demo.ui.shown
import java.io.IOException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.launch

/** The chat screen; renders [ChatUiState]. */
class ChatActivity : ScreenActivity() {
    private val chat get() = app.chat
    private var shownConversation: String? = null
    private var signs: VitalSigns? = null
    private var sheets: ChatSheets? = null
    private var announced = -1
    private var announcedFor: String? = null
    private var keepsPosition = false
    private var slowTicks = 0

    private val messages by lazy { findViewById<ExchangeList>(R.id.messages) }
    private val scroll by lazy { findViewById<FollowScrollView>(R.id.messages_scroll) }
    private val composer by lazy { findViewById<EditText>(R.id.composer) }

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.activity_chat)
        val sheets = ChatSheets(this, chat).also { this.sheets = it }
        click(R.id.conversations) { sheets.open(ChatSheets.Kind.CONVERSATIONS) }
        click(R.id.new_chat) { chat.new() }
        click(R.id.title_area) { open(ModelsActivity::class.java) }
        click(R.id.status) { sheets.open(ChatSheets.Kind.DETAILS) }
        click(R.id.more, ::showMenu)
        click(R.id.send) { send(composer.text.toString()) }
        click(R.id.stop) { chat.stop() }
        click(R.id.jump_down) { scroll.follow() }
        click(R.id.editing_cancel) { stopEditing() }
        messages.create = { slot ->
            ExchangeView(slot, { toggleThinking(messages.indexOfChild(slot)) }, ::solve)
        }
        scroll.list = messages
        scroll.onFollow = { renderJump(chat.state.value) }
        composer.addTextChangedListener(object : TextWatcher {
            override fun beforeTextChanged(text: CharSequence, start: Int, count: Int, after: Int) = Unit
            override fun onTextChanged(text: CharSequence, start: Int, before: Int, count: Int) = Unit
            override fun afterTextChanged(text: Editable) = renderComposer(chat.state.value)
        })
        composer.setOnKeyListener { _, key, event ->
            // A keyboard of its own; a new line needs the shift key.
            val sends = key == KeyEvent.KEYCODE_ENTER && event.action == KeyEvent.ACTION_DOWN && !event.isShiftPressed
            if (sends) send(composer.text.toString())
            sends
        }
        if (state == null) measureFor(intent)
        announced = chat.state.value.ended
        keepsPosition = state?.getBoolean(FOLLOWS) == false
        render(chat.state, ::render)
        render(flow { while (true) emit(app.vitals.read()).also { delay(VITALS_MS) } }) {
            signs = it
            slowTicks = if (chat.state.value.generating) slowTicks + 1 else 0
            if (slowTicks == SLOW_TICKS) askToNotify()
            renderStatus(chat.state.value)
            sheets.render(chat.state.value, it)
        }
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        measureFor(intent)
    }

    /** Begins what adb asks for: docs/android.md. */
    private fun measureFor(intent: Intent) {
        app.benchmark.start(BenchmarkRequest.of(intent) ?: return)
        open(BenchmarkActivity::class.java)
    }

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putBoolean(FOLLOWS, scroll.follows)
        state.putString(SHEET, sheets?.opened?.name)
    }

    override fun onRestoreInstanceState(state: Bundle) {
        super.onRestoreInstanceState(state)
        state.getString(SHEET)?.let { sheets?.open(ChatSheets.Kind.valueOf(it)) }
    }

    override fun onDestroy() {
        sheets?.close()
        super.onDestroy()
    }

    private fun send(text: String) {
        if (text.isBlank() || !chat.state.value.canSend) return
        app.models.forgetCrash()
        chat.send(text)
        composer.text.clear()
        scroll.follow()
    }

    private fun render(state: ChatUiState) {
        renderToolbar(state)
        renderMessages(state)
        renderComposer(state)
        renderStatus(state)
        sheets?.render(state, signs)
        announce(state)
    }

    /** Tells a screen reader once that the answer of the conversation on the screen is complete. */
    private fun announce(state: ChatUiState) {
        val conversation = state.conversation.id
        val text = findViewById<TextView>(R.id.announcement)
        if (announcedFor != conversation || state.generating) {
            announcedFor = conversation
            announced = state.ended
            if (text.text.isNotEmpty()) text.text = ""
        } else if (state.ended != announced) {
            announced = state.ended
            val answer = state.conversation.exchanges.lastOrNull()?.answer ?: return
            if (answer.state in setOf(AnswerState.DONE, AnswerState.LENGTH, AnswerState.FULL)) {
                text.text = getString(R.string.answer_ended, answer.text)
            }
        }
    }

    private fun renderToolbar(state: ChatUiState) {
        val load = state.load
        findViewById<TextView>(R.id.title).show(load.name ?: getString(R.string.app_name))
        findViewById<TextView>(R.id.subtitle).show(subtitle(state))
        val meter = findViewById<ProgressBar>(R.id.context_meter)
        val used = state.usedTokens ?: 0
        val all = state.contextTokens
        meter.progress = if (all == null) 0 else (used.toLong() * meter.max / all).toInt()
        meter.contentDescription = all?.let { resources.getQuantityString(R.plurals.context_used, it, used, it) }
        findViewById<ProblemCard>(R.id.load_problem).apply {
            val problem = (load as? LoadState.Failed)?.problem ?: state.crash
            render(problem, problem?.kind?.let(::solution) ?: 0) { problem?.let { solve(it.kind) } }
        }
    }

    private fun subtitle(state: ChatUiState): String = when (val load = state.load) {
        LoadState.None -> getString(R.string.preparing)
        is LoadState.Loading -> loadingText(load)
        is LoadState.Unloaded -> getString(R.string.unloaded)
        is LoadState.Failed -> getString(R.string.not_loaded)
        is LoadState.Ready -> if (state.busy) {
            getString(R.string.work_benchmark)
        } else {
            val all = load.info.contextLength
            val context = resources.getQuantityString(R.plurals.context_short, all, state.usedTokens ?: 0, all)
            listOf(load.info.recipe, load.info.provider.name, context).joinToString(SEPARATOR)
        }
    }

    private fun loadingText(load: LoadState.Loading): String =
        if (load.totalBytes == 0L || load.doneBytes == load.totalBytes) {
            getString(R.string.opening)
        } else {
            getString(R.string.checking, (load.doneBytes * 100 / load.totalBytes).toInt())
        }

    private fun renderMessages(state: ChatUiState) {
        val exchanges = state.conversation.exchanges
        if (shownConversation != state.conversation.id) {
            messages.show(emptyList())
            shownConversation = state.conversation.id
            when {
                keepsPosition -> keepsPosition = false // the system restores it
                exchanges.isEmpty() -> scroll.toTop()
                else -> scroll.follow()
            }
        }
        messages.show(
            exchanges.mapIndexed { index, exchange ->
                val actions = ExchangeActions(
                    again = if (index == exchanges.lastIndex && state.canSend) chat::regenerate else null,
                    edit = if (state.canSend) ({ edit(index) }) else null,
                    goOn = if (index == exchanges.lastIndex && state.canSend && exchange.answer.isCut) chat::goOn else null,
                )
                ExchangeItem(exchange, index in state.unfolded, actions)
            },
        )
        renderEmpty(state)
        renderJump(state)
    }

    private fun renderJump(state: ChatUiState) {
        findViewById<View>(R.id.jump_down).shown = !scroll.follows && state.conversation.exchanges.isNotEmpty()
    }

    private fun toggleThinking(index: Int) {
        // What unfolds is to be read from its beginning, unless it grows.
        if (!chat.state.value.generating) scroll.release()
        chat.toggleThinking(index)
    }

    private fun renderEmpty(state: ChatUiState) {
        val empty = findViewById<View>(R.id.empty)
        empty.shown = state.conversation.exchanges.isEmpty() && state.load !is LoadState.Failed && state.crash == null
        if (!empty.shown) return
        val nano = state.load.name?.let { it == NANO } ?: true
        findViewById<TextView>(R.id.empty_text).setText(if (nano) R.string.empty_nano else R.string.empty_model)
        val list = findViewById<LinearLayout>(R.id.suggestions)
        if (list.tag != nano) {
            list.tag = nano
            list.removeAllViews()
            resources.getStringArray(if (nano) R.array.examples_nano else R.array.examples).forEach { add(list, it) }
        }
        for (index in 0 until list.childCount) list.getChildAt(index).isEnabled = state.canSend
    }

    private fun add(list: ViewGroup, example: String) {
        val view = LayoutInflater.from(this).inflate(R.layout.item_suggestion, list, false) as TextView
        view.text = example
        view.setOnClickListener { send(example) }
        list.addView(view)
    }

    private fun edit(index: Int) {
        chat.edit(index)
        composer.setText(chat.state.value.conversation.exchanges.getOrNull(index)?.question)
        composer.setSelection(composer.length())
        composer.requestFocus()
    }

    private fun stopEditing() {
        chat.edit(null)
        composer.text.clear()
    }

    private fun renderComposer(state: ChatUiState) {
        findViewById<View>(R.id.editing).shown = state.editing != null
        findViewById<View>(R.id.send).apply {
            shown = !state.generating
            isEnabled = state.canSend && composer.text.isNotBlank()
        }
        findViewById<View>(R.id.stop).shown = state.generating
    }

    private fun renderStatus(state: ChatUiState) {
        findViewById<TextView>(R.id.status).show(statusLine(this, state, signs))
    }

    private fun solve(kind: Problem.Kind) = when (solution(kind)) {
        R.string.new_chat -> chat.new()
        R.string.settings_title -> open(SettingsActivity::class.java)
        R.string.try_again -> if (chat.state.value.canSend) chat.regenerate() else app.models.reload()
        else -> open(ModelsActivity::class.java)
    }

    private fun showMenu(anchor: View) {
        PopupMenu(this, anchor).apply {
            inflate(R.menu.chat)
            menu.findItem(R.id.menu_export).isEnabled = chat.state.value.conversation.exchanges.isNotEmpty()
            setOnMenuItemClickListener {
                when (it.itemId) {
                    R.id.menu_models -> open(ModelsActivity::class.java)
                    R.id.menu_benchmark -> open(BenchmarkActivity::class.java)
                    R.id.menu_export -> startExport()
                    R.id.menu_settings -> open(SettingsActivity::class.java)
                    else -> sheets?.open(ChatSheets.Kind.DETAILS)
                }
                true
            }
        }.show()
    }

    internal fun startExport() = try {
        val create = Intent(Intent.ACTION_CREATE_DOCUMENT)
            .addCategory(Intent.CATEGORY_OPENABLE)
            .setType("text/markdown")
            .putExtra(Intent.EXTRA_TITLE, fileNameOf(chat.state.value.conversation))
        startActivityForResult(create, EXPORT)
    } catch (_: ActivityNotFoundException) { // a device without a file picker
        tell(R.string.not_exported)
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        val file = data?.data
        if (request != EXPORT || result != RESULT_OK || file == null) return
        val resolver = applicationContext.contentResolver
        CoroutineScope(Dispatchers.Main).launch {
            try {
                chat.export { resolver.openOutputStream(file, "wt") }
                tell(R.string.exported)
            } catch (_: IOException) {
                tell(R.string.not_exported)
            } catch (_: SecurityException) {
                tell(R.string.not_exported)
            }
        }
    }

    private fun tell(text: Int) = Toast.makeText(this, text, Toast.LENGTH_LONG).show()

    /** Without it an answer goes on in the background all the same, but nothing shows it. */
    private fun askToNotify() {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.TIRAMISU || app.settings.askedToNotify) return
        app.settings.askedToNotify = true
        if (checkSelfPermission(Manifest.permission.POST_NOTIFICATIONS) == PackageManager.PERMISSION_GRANTED) return
        requestPermissions(arrayOf(Manifest.permission.POST_NOTIFICATIONS), 0)
    }

    private fun open(activity: Class<*>) = startActivity(Intent(this, activity))

    private fun click(id: Int, act: (View) -> Unit) = findViewById<View>(id).setOnClickListener(act)

    private companion object {
        const val EXPORT = 1
        const val FOLLOWS = "follows"
        const val SHEET = "sheet"
        const val NANO = "mimo-nano"
        const val VITALS_MS = 2000L

        /** An answer that takes so many readings may be waited for outside the app. */
        const val SLOW_TICKS = 3
    }
}
