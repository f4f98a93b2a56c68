package io.github.mimomobile.demo.ui

import android.app.Activity
import android.graphics.Insets
import android.os.Build
import android.os.Bundle
import android.view.View
import android.view.WindowInsets
import io.github.mimomobile.demo.R
import io.github.mimomobile.demo.app
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.launch

/** A screen: it renders state while it is visible, and keeps its content off the system's bars. */
abstract class ScreenActivity : Activity() {
    private val shown = mutableListOf<suspend () -> Unit>()
    private var scope: CoroutineScope? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        app.start()
    }

    /** Has [render] called with the state, now and at each change, as long as the screen is visible. */
    protected fun <T> render(flow: Flow<T>, render: (T) -> Unit) {
        shown += { flow.collect { render(it) } }
    }

    override fun onStart() {
        super.onStart()
        val scope = CoroutineScope(Dispatchers.Main.immediate)
        shown.forEach { collect -> scope.launch { collect() } }
        this.scope = scope
    }

    override fun onStop() {
        scope?.cancel()
        super.onStop()
    }

    override fun setContentView(layout: Int) {
        super.setContentView(layout)
        window.padForBars(findViewById(R.id.root))
        findViewById<View?>(R.id.back)?.setOnClickListener { finish() }
    }
}

/** Draws behind the system's bars, as Android 15 forces it, and pads [root] by them and by the keyboard. */
@Suppress("DEPRECATION") // what is forced is deprecated
fun android.view.Window.padForBars(root: View) {
    if (Build.VERSION.SDK_INT < Build.VERSION_CODES.R) return // the system pads
    if (Build.VERSION.SDK_INT < ANDROID_15) setDecorFitsSystemWindows(false)
    root.setOnApplyWindowInsetsListener { view, insets ->
        val types = WindowInsets.Type.systemBars() or WindowInsets.Type.ime() or WindowInsets.Type.displayCutout()
        val bars: Insets = insets.getInsets(types)
        view.setPadding(bars.left, bars.top, bars.right, bars.bottom)
        WindowInsets.CONSUMED
    }
}

private const val ANDROID_15 = 35
