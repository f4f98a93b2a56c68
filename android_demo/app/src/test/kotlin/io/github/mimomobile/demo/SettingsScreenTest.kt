package io.github.mimomobile.demo

import android.widget.EditText
import android.widget.Switch
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** The form of the settings. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], qualifiers = PHONE)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class SettingsScreenTest {
    @get:Rule
    val hardware = Hardware()

    @Test
    fun `what is saved is what a generation gets, and is read again by another process`() {
        val form = Robolectric.buildActivity(SettingsActivity::class.java).setup().get()
        form.view<EditText>(R.id.system_prompt).setText("Be brief.")
        form.view<EditText>(R.id.temperature).setText("0,25")
        form.view<EditText>(R.id.thinking_budget).setText("64")
        form.view<EditText>(R.id.seed).setText("7")
        form.view<Switch>(R.id.drafts).isChecked = false
        press(form.view(R.id.toolbar_action))
        assertTrue(form.isFinishing)
        val saved = application.settings.values.value
        assertEquals("Be brief.", saved.systemPrompt)
        val generation = saved.generation
        assertEquals(0.25, generation.temperature, 0.0)
        assertEquals(64, generation.thinkingBudget)
        assertEquals(7L, generation.seed)
        assertFalse(generation.speculate)
        assertEquals(saved, SettingsStore(application).values.value)
    }

    @Test
    fun `a wrong value is told at its field, and nothing is saved`() {
        val form = Robolectric.buildActivity(SettingsActivity::class.java).setup().get()
        form.view<EditText>(R.id.system_prompt).setText("Be brief.")
        form.view<EditText>(R.id.top_p).setText("1.5")
        press(form.view(R.id.toolbar_action))
        assertFalse(form.isFinishing)
        assertNotNull(form.view<EditText>(R.id.top_p).error)
        assertEquals(Settings(), application.settings.values.value)
    }
}
