"""Words that every text needs, whatever it says, in seven languages. No torch."""

_WORDS = """
about above across after against along although among around because been before behind being below beside besides
between beyond cannot could despite does doing done during except from have having hers herself himself into itself
might mine must myself near onto ours ourselves over shall should since than that their theirs them themselves then
there these they this those though through till toward towards under unless until upon were what whatever when
whenever where whereas whether which whichever while whom whose will with within without would your yours yourself
yourselves

aber auch beim damit dann dass dein deine deinem deinen deiner denen denn deren derer dessen dich diese diesem diesen
dieser dieses doch durch eine einem einen einer eines euch euer eure euren gegen habe haben hatte hatten hinter ihnen
ihre ihrem ihren ihrer indem jede jedem jeden jeder jedes jene jenem jenen jener kann kein keine keinem keinen keiner
konnte können könnte mein meine meinem meinen meiner mich muss müssen nach nachdem nicht nichts oder ohne sein seine
seinem seinen seiner seit seitdem sich sind sobald sodass soll sollen sollte solche sondern sowie trotz unser unsere
unserem unseren unter waren warum wegen weil welche welchem welchen welcher welches wenn werde werden wird wurde
wurden während würde über zwischen

afin après auprès avaient avait avant avec avez avoir avons celle celles celui cette ceux chaque chez comme comment
contre dans depuis derrière devant dont donc elle elles entre envers était étaient être jusque lequel laquelle leur
leurs lors lorsque malgré nous notre nôtre parce parmi pendant pourquoi puis puisque quand quel quelle quelles quels
quoi sans sauf selon serait sinon soit sont sous suis tandis vers votre vous

ante antes aquel aquella aquellas aquellos aunque bajo como cómo contra cual cuál cuales cuando cuándo cuanto cuyo
debe deben desde después donde dónde durante ella ellas ellos entre eran eres esas esos esta está estaba estamos están
estar estas este esto estos fueron haber había habían hacia hasta mediante mientras nosotros nuestra nuestras nuestro
nuestros para pero porque pueden puede pues quien quién quienes según será sería sido sino sobre somos tiene tienen
tras unas unos usted ustedes vuestra vuestro

avere aveva avevano bensì benché cioè comunque contro dalla dalle dallo dagli degli della delle dello dentro dopo
dunque durante ella entro erano essa esse essere essi fino fuori hanno loro mentre mediante negli nella nelle nello
nonostante nostra nostre nostri nostro oppure però perché poiché presso quale quali quando quanto quella quelle quelli
quello quel questa queste questi questo quindi sarà sarebbe sebbene secondo senza siamo siete sono sopra sotto stata
stati stato sugli sulla sulle sullo suoi tranne vostra vostre vostri vostro verso

apesar após aquela aquelas aquele aqueles através como conforme consigo contudo dela delas dele deles dessa desse
desta deste durante elas eles embora enquanto entre eram essa essas esse esses estamos estão estava este estes esta
estas estou foram havia isso isto meus minha minhas nessa nesse nesta neste nossa nossas nosso nossos para pela pelas
pelo pelos perante porém porque pois portanto quais qual quando quanto quem seja sejam sendo será seria seus sobre
suas tinha umas você vocês

achter daar daarna daarom deze door elke elkaar geweest hadden hebben heeft hebt hoewel indien jouw jullie kunnen kunt
maar mijn moet moeten naar naast niet omdat onder onze over rond sinds tegen tenzij terwijl toch toen totdat tussen
vanaf vanuit voor voordat waar waarom wanneer waren werd werden wier wiens worden wordt zelf zich zijn zoals zodat
zonder zouden zulke zult
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
"""Articles, pronouns, prepositions, conjunctions and auxiliary verbs of at least four letters, in small letters. The
languages are English, German, French, Spanish, Italian, Portuguese and Dutch.

Two kinds are left out, because a reader can object to them: words that say how much, how often or where, as in "Here
are some steps"; and words that mean something else in English, such as the French "pour".
"""
